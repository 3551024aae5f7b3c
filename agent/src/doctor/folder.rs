//! Checks whether a local folder can be used as the object store.

use super::probe;
use super::report::Report;
use millpond_engine::error_chain;
use millpond_engine::store::Store;
use std::path::Path;
use tokio::time::Instant;

/// Free space below which the check fails.
const FREE_MIN_BYTES: u64 = 64 << 20;
/// Free space below which there is a warning.
const FREE_LOW_BYTES: u64 = 2 << 30;
/// Duration of the probe above which there is a warning.
const PROBE_SLOW_MS: u128 = 250;

/// `name` is the key of the probe object.
pub async fn check(folder: &Path, name: &str, report: &mut Report) {
    let advice = "make the folder, and let the user that agents run as write into it";
    if let Err(error) = std::fs::create_dir_all(folder) {
        report.fail("store.place", format!("{}: {error}", folder.display()), advice);
        return;
    }
    report.info("store.place", format!("{}: all agents must share it", folder.display()));
    let store = match Store::local(folder) {
        Ok(store) => store,
        Err(error) => return report.fail("store.place", error_chain(&error), advice),
    };
    let start = Instant::now();
    if probe::check(&store, name, advice, report).await {
        // The probe's PUT returns after file and folders are synced to disk.
        let took = start.elapsed().as_millis();
        let told = format!("put, synced, read and deleted in {took} ms");
        if took > PROBE_SLOW_MS {
            report.warn("store.sync", told, "use a faster disk: each PUT waits for several syncs");
        } else {
            report.ok("store.sync", told);
        }
    }
    std::fs::remove_dir(folder.join("doctor")).ok();
    match rustix::fs::statvfs(folder) {
        Ok(space) => {
            let free = space.f_bavail.saturating_mul(space.f_frsize);
            let told = format!("{} MiB free", free >> 20);
            match free {
                ..FREE_MIN_BYTES => report.fail("store.space", told, "make room: PUTs fail when it runs out"),
                FREE_MIN_BYTES..FREE_LOW_BYTES => {
                    report.warn("store.space", told, "make room, or shorten retention")
                }
                _ => report.ok("store.space", told),
            }
        }
        Err(error) => report.info("store.space", format!("cannot be read: {error}")),
    }
}

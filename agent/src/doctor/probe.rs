//! Writes a probe object to a store, reads it whole and in part, and deletes it.

use super::report::Report;
use bytes::Bytes;
use millpond_engine::error_chain;
use millpond_engine::store::{Store, StoreError};
use object_store::path::Path;

/// Size of the probe object.
const PROBE_BYTES: usize = 64 << 10;

/// True if all steps succeeded. `name` is the key of the object, `advice` what to do if a request fails.
pub async fn check(store: &Store, name: &str, advice: &str, report: &mut Report) -> bool {
    let key = Path::from(name);
    let bytes: Bytes =
        (0..PROBE_BYTES).map(|n| u8::try_from(n % 251).unwrap_or(0)).collect::<Vec<u8>>().into();
    if let Err(error) = store.put(&key, &bytes).await {
        report.fail("store.write", error_chain(&error), advice);
        return false;
    }
    report.ok("store.write", format!("put {name}"));
    let half = u64::try_from(PROBE_BYTES / 2).unwrap_or(0);
    let whole = store.get_range(&key, 0..2 * half).await;
    let part = store.get_range(&key, half - 10..half + 10).await;
    let read = match (whole, part) {
        (Ok(whole), Ok(part))
            if whole == bytes && part == bytes.slice(PROBE_BYTES / 2 - 10..PROBE_BYTES / 2 + 10) =>
        {
            report.ok("store.read", "whole and in part");
            true
        }
        (Ok(_), Ok(_)) => {
            report.fail(
                "store.read",
                "the bytes that were read differ from those that were written",
                "this store cannot be used",
            );
            false
        }
        (Err(error), _) | (_, Err(error)) => {
            report.fail("store.read", error_chain(&error), advice);
            false
        }
    };
    let deleted = store.delete(&key).await;
    match (deleted, store.get_range(&key, 0..1).await) {
        (Ok(()), Err(StoreError::NotFound)) => report.ok("store.delete", "gone"),
        (Ok(()), Ok(_)) => {
            report.fail("store.delete", "a deleted object can still be read", "this store cannot be used");
            return false;
        }
        (Err(error), _) | (_, Err(error)) => {
            report.fail("store.delete", error_chain(&error), advice);
            return false;
        }
    }
    read
}

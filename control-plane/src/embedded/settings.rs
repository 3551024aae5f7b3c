//! Settings of the server. They are given on its command line, so that they override the files in the folder.

use std::path::Path;

const MIB: u64 = 1 << 20;
/// Minimum and maximum of `shared_buffers`, which is otherwise a sixteenth of the memory. The server shares
/// the machine with an agent and, in development, with other programs.
const SHARED_BUFFERS_MIB: (u64, u64) = (128, 512);

/// `name=value` pairs for `postgres -c`.
pub(super) fn server_settings(socket_folder: &str, durable: bool) -> Vec<String> {
    let buffers = shared_buffers_mib(memory_bytes());
    let on_off = if durable { "on" } else { "off" };
    vec![
        "listen_addresses=".to_owned(),
        format!("unix_socket_directories={}", quoted(socket_folder)),
        "unix_socket_permissions=0700".to_owned(),
        format!("port={}", super::PORT),
        format!("fsync={on_off}"),
        "full_page_writes=on".to_owned(),
        "synchronous_commit=on".to_owned(),
        format!("shared_buffers={buffers}MB"),
        "huge_pages=off".to_owned(),
        "max_connections=100".to_owned(),
        "max_wal_size=2GB".to_owned(),
        "checkpoint_timeout=15min".to_owned(),
        "wal_compression=off".to_owned(),
        "autovacuum_naptime=10s".to_owned(),
        "log_destination=stderr".to_owned(),
        "logging_collector=off".to_owned(),
        "log_checkpoints=off".to_owned(),
        "log_line_prefix=%m [%p] ".to_owned(),
        // Error handling recognizes messages by their English text.
        "lc_messages=C".to_owned(),
        "log_timezone=UTC".to_owned(),
        "timezone=UTC".to_owned(),
    ]
}

/// Quotes a folder for a list of folders in a Postgres setting, where an unquoted comma separates and a blank
/// ends.
fn quoted(folder: &str) -> String {
    format!("\"{}\"", folder.replace('"', "\"\""))
}

fn shared_buffers_mib(memory_bytes: Option<u64>) -> u64 {
    let (least, most) = SHARED_BUFFERS_MIB;
    memory_bytes.map_or(least, |bytes| (bytes / 16 / MIB).clamp(least, most))
}

/// Memory of the machine, or of the container if that is smaller; `None` if the system does not tell.
fn memory_bytes() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
    let machine = read("/proc/meminfo")
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map(|kib| kib.saturating_mul(1024));
    let container = read("/sys/fs/cgroup/memory.max").trim().parse().ok();
    machine.into_iter().chain(container).min()
}

#[cfg(test)]
mod tests {
    use super::{MIB, quoted, server_settings, shared_buffers_mib};

    #[test]
    fn buffers_follow_memory_within_bounds() {
        assert_eq!(shared_buffers_mib(None), 128);
        assert_eq!(shared_buffers_mib(Some(512 * MIB)), 128);
        assert_eq!(shared_buffers_mib(Some(4096 * MIB)), 256);
        assert_eq!(shared_buffers_mib(Some(1 << 40)), 512);
    }

    #[test]
    fn a_durable_server_keeps_every_promise() {
        let settings = server_settings("/s", true);
        for promise in ["fsync=on", "full_page_writes=on", "synchronous_commit=on"] {
            assert!(settings.iter().any(|setting| setting == promise), "{promise}");
        }
    }

    #[test]
    fn odd_folders_stay_one_folder() {
        assert_eq!(quoted("/a b,\"c\""), "\"/a b,\"\"c\"\"\"");
    }
}

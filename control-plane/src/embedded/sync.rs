//! Syncs files and folders to disk, so that they survive a power failure.

use std::fs::File;
use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use super::EmbeddedError;

/// Number of threads that sync at the same time. The file system merges syncs that wait, so many take little
/// longer than one.
const SYNC_THREADS: usize = 32;

/// Syncs a folder and all files and folders in it.
pub(super) async fn tree(folder: &Path) -> Result<(), EmbeddedError> {
    let mut paths = vec![folder.to_path_buf()];
    let mut next = 0;
    while let Some(path) = paths.get(next).cloned() {
        next += 1;
        if path.is_dir() && !path.is_symlink() {
            let entries = std::fs::read_dir(&path).map_err(EmbeddedError::io("list", &path))?;
            paths.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    let mut threads = JoinSet::new();
    for share in paths.chunks(paths.len().div_ceil(SYNC_THREADS)) {
        let share: Vec<PathBuf> = share.to_vec();
        threads.spawn_blocking(move || share.iter().try_for_each(|path| tree_entry(path)));
    }
    for ended in threads.join_all().await {
        ended?;
    }
    Ok(())
}

/// Syncs one file, or one folder and thus the names in it.
pub(super) fn tree_entry(path: &Path) -> Result<(), EmbeddedError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(EmbeddedError::io("sync", path))
}

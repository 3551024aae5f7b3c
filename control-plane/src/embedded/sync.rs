//! Making files survive a power cut.

use std::fs::File;
use std::path::{Path, PathBuf};

use tokio::task::JoinSet;

use super::EmbeddedError;

/// Waiting syncs are merged by the file system, so that many at once take little longer than one.
const THREADS: usize = 32;

/// Syncs every file and folder in `folder`, and itself.
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
    for share in paths.chunks(paths.len().div_ceil(THREADS)) {
        let share: Vec<PathBuf> = share.to_vec();
        threads.spawn_blocking(move || share.iter().try_for_each(|path| tree_entry(path)));
    }
    for ended in threads.join_all().await {
        ended?;
    }
    Ok(())
}

/// Syncs one file or, for the names it holds, one folder.
pub(super) fn tree_entry(path: &Path) -> Result<(), EmbeddedError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(EmbeddedError::io("sync", path))
}

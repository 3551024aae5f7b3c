//! A local folder as object store.

use crate::blocking;
use async_trait::async_trait;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UpdateVersion,
};
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

/// File that is locked while an object is replaced.
const LOCK_FILE: &str = ".lock";
/// Pause between two tries to lock it.
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// A local folder whose PUTs are durable: [`LocalFileSystem`] renames files into place but does not sync
/// them; this wrapper syncs the file and its folders before a PUT returns.
#[derive(Debug)]
pub(super) struct DurableFolder {
    inner: LocalFileSystem,
    root: PathBuf,
}

impl DurableFolder {
    pub fn open(folder: &std::path::Path) -> Result<Self> {
        Ok(Self { inner: LocalFileSystem::new_with_prefix(folder)?, root: folder.to_owned() })
    }

    /// Replaces an object if it still has that version; [`LocalFileSystem`] cannot do so. All that replace
    /// objects in the folder hold a lock on one file, and the object is renamed into its place.
    async fn replace(
        &self,
        location: &Path,
        payload: PutPayload,
        version: UpdateVersion,
    ) -> Result<PutResult> {
        // Released when it is dropped.
        let lock = self.lock().await.map_err(failed)?;
        if self.inner.head(location).await?.e_tag != version.e_tag {
            let (path, source) = (location.to_string(), "another version is there".into());
            return Err(object_store::Error::Precondition { path, source });
        }
        let file = self.inner.path_to_filesystem(location)?;
        let renamed = blocking::run(move || -> std::io::Result<()> {
            let next = file.with_extension("next");
            let mut writer = File::create(&next)?;
            for bytes in &payload {
                writer.write_all(bytes)?;
            }
            writer.sync_all()?;
            std::fs::rename(&next, &file)
        });
        renamed.await.map_err(failed)?;
        self.sync(location).await?;
        let e_tag = self.inner.head(location).await?.e_tag;
        drop(lock);
        Ok(PutResult { e_tag, version: None })
    }

    /// Waits for the lock without occupying a thread, of which a simulation has one.
    async fn lock(&self) -> std::io::Result<File> {
        let path = self.root.join(LOCK_FILE);
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    async fn sync(&self, location: &Path) -> Result<()> {
        let file = self.inner.path_to_filesystem(location)?;
        let root = self.root.clone();
        let synced = blocking::run(move || -> std::io::Result<()> {
            File::open(&file)?.sync_all()?;
            let mut folder = file.parent();
            while let Some(at) = folder {
                File::open(at)?.sync_all()?;
                folder = if at == root { None } else { at.parent() };
            }
            Ok(())
        });
        synced.await.map_err(failed)
    }
}

fn failed(error: std::io::Error) -> object_store::Error {
    object_store::Error::Generic { store: "folder", source: error.into() }
}

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableFolder({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        if let PutMode::Update(version) = opts.mode {
            return self.replace(location, payload, version).await;
        }
        let result = self.inner.put_opts(location, payload, opts).await?;
        self.sync(location).await?;
        Ok(result)
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(object_store::Error::NotImplemented {
            operation: "put_multipart".into(),
            implementer: "DurableFolder".into(),
        })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync(to).await
    }
}

//! Object stores: opened, made durable, counted.

pub mod latency;

use crate::metrics;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use latency::Pace;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// One try of a PUT may take so long, and all tries of a GET together.
const ATTEMPT: Duration = Duration::from_secs(15);
/// The client tries again by itself what broke on the way, but not what was refused.
const ATTEMPTS: u32 = 4;
const BACKOFF: Duration = Duration::from_millis(100);

/// What the write and read paths need of a store; every call is bounded in time and counted.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    pace: Option<Pace>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the object does not exist")]
    NotFound,
    #[error("the object store did not answer in time")]
    Timeout,
    #[error("the object store failed")]
    Failed(#[source] object_store::Error),
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the store cannot be told from its URL: {0}")]
    Url(String),
    #[error("the folder cannot be made")]
    Folder(#[source] std::io::Error),
    #[error("the store cannot be opened")]
    Store(#[from] object_store::Error),
}

/// Where a URL says that objects lie.
pub enum StoreLocation {
    Memory,
    Folder(PathBuf),
    /// With the rest of the usual AWS variables.
    Bucket {
        s3: Box<AmazonS3Builder>,
        bucket: String,
        prefix: String,
    },
}

impl StoreLocation {
    /// `s3://bucket/prefix`, `file:///folder`, or `memory:`, which ends with the process.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        let url = Url::parse(url).map_err(|e| OpenError::Url(e.to_string()))?;
        match url.scheme() {
            "memory" => Ok(Self::Memory),
            "file" => {
                let folder = url.to_file_path().map_err(|()| {
                    OpenError::Url("a file URL has three slashes: file:///folder".to_owned())
                })?;
                Ok(Self::Folder(folder))
            }
            "s3" => {
                let bucket = url.host_str().ok_or_else(|| {
                    OpenError::Url("an S3 URL names a bucket: s3://bucket/prefix".to_owned())
                })?;
                let s3 = Box::new(AmazonS3Builder::from_env().with_bucket_name(bucket));
                Ok(Self::Bucket {
                    s3,
                    bucket: bucket.to_owned(),
                    prefix: url.path().trim_matches('/').to_owned(),
                })
            }
            other => {
                Err(OpenError::Url(format!("unknown scheme {other}: s3://bucket/prefix or file:///folder")))
            }
        }
    }
}

impl Store {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, pace: None }
    }

    /// The same store with a latency in front of it.
    #[must_use]
    pub fn slowed(self, pace: Option<Pace>) -> Self {
        Self { pace, ..self }
    }

    async fn held<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.pace {
            Some(pace) => pace.held(work).await,
            None => work.await,
        }
    }

    /// What a URL names, see [`StoreLocation::parse`].
    pub fn open(url: &str) -> Result<Self, OpenError> {
        match StoreLocation::parse(url)? {
            StoreLocation::Memory => Ok(Self::new(Arc::new(InMemory::new()))),
            StoreLocation::Folder(folder) => {
                std::fs::create_dir_all(&folder).map_err(OpenError::Folder)?;
                Ok(Self::local(&folder)?)
            }
            StoreLocation::Bucket { s3, prefix, .. } => Ok(Self::bucket(s3.build()?, &prefix)),
        }
    }

    #[must_use]
    pub fn bucket(s3: AmazonS3, prefix: &str) -> Self {
        if prefix.is_empty() {
            Self::new(Arc::new(s3))
        } else {
            Self::new(Arc::new(PrefixStore::new(s3, prefix)))
        }
    }

    /// A folder, each PUT of which is on disk before it counts.
    pub fn local(folder: &std::path::Path) -> Result<Self> {
        Ok(Self::new(Arc::new(DurableFolder {
            inner: LocalFileSystem::new_with_prefix(folder)?,
            root: folder.to_owned(),
        })))
    }

    /// Writes an object under a key that is never reused; sent again with the same bytes when in doubt.
    pub async fn put(&self, key: &Path, bytes: &Bytes) -> Result<(), StoreError> {
        let start = Instant::now();
        let mut failure = StoreError::Timeout;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(BACKOFF * 2_u32.pow(attempt)).await;
            }
            metrics::store_request("put");
            match tokio::time::timeout(
                ATTEMPT,
                self.held(self.inner.put(key, PutPayload::from_bytes(bytes.clone()))),
            )
            .await
            {
                Ok(Ok(_)) => {
                    metrics::store_put(start.elapsed(), bytes.len());
                    return Ok(());
                }
                Ok(Err(e)) => failure = StoreError::Failed(e),
                Err(_) => failure = StoreError::Timeout,
            }
            tracing::warn!(key = %key, attempt, error = %failure, "put failed");
        }
        Err(failure)
    }

    /// Bytes of an object, as many of the range as there are. Only a 404 says that it is missing; a refusal
    /// (403) can pass, or hide a 404.
    pub async fn get_range(&self, key: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
        let start = Instant::now();
        let bytes = tokio::time::timeout(ATTEMPT, self.try_get_range(key, range))
            .await
            .map_err(|_| StoreError::Timeout)??;
        metrics::store_get(start.elapsed(), bytes.len());
        Ok(bytes)
    }

    async fn try_get_range(&self, key: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
        let mut attempt = 0;
        loop {
            metrics::store_request("get");
            let error = match self.held(self.inner.get_range(key, range.clone())).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) if is_missing(&error) => return Err(StoreError::NotFound),
                Err(error) => error,
            };
            attempt += 1;
            if attempt == ATTEMPTS {
                if matches!(
                    error,
                    object_store::Error::PermissionDenied { .. }
                        | object_store::Error::Unauthenticated { .. }
                ) {
                    tracing::error!(key = %key, error = %crate::error_chain(&error), "the store refuses a read");
                }
                return Err(StoreError::Failed(error));
            }
            tracing::warn!(key = %key, attempt, error = %crate::error_chain(&error), "get failed");
            tokio::time::sleep(BACKOFF * 2_u32.pow(attempt)).await;
        }
    }

    /// Gone already is as good as deleted.
    pub async fn delete(&self, key: &Path) -> Result<(), StoreError> {
        metrics::store_request("delete");
        match tokio::time::timeout(ATTEMPT, self.held(self.inner.delete(key))).await {
            Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => Ok(()),
            Ok(Err(e)) => Err(StoreError::Failed(e)),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// Whether the store answers at all.
    pub async fn ping(&self, key: &Path) -> Result<(), StoreError> {
        match tokio::time::timeout(Duration::from_secs(2), self.inner.head(key)).await {
            Ok(Ok(_) | Err(object_store::Error::NotFound { .. })) => Ok(()),
            Ok(Err(e)) => Err(StoreError::Failed(e)),
            Err(_) => Err(StoreError::Timeout),
        }
    }
}

/// A whole bucket that is not there says nothing about an object.
fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
        && !crate::error_chain(error).contains("NoSuchBucket")
}

/// [`LocalFileSystem`] renames into place but never syncs: here file and folders are synced before a PUT is
/// answered.
#[derive(Debug)]
struct DurableFolder {
    inner: LocalFileSystem,
    root: PathBuf,
}

impl DurableFolder {
    async fn sync(&self, location: &Path) -> Result<()> {
        let file = self.inner.path_to_filesystem(location)?;
        let root = self.root.clone();
        let synced = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
            std::fs::File::open(&file)?.sync_all()?;
            let mut folder = file.parent();
            while let Some(at) = folder {
                std::fs::File::open(at)?.sync_all()?;
                folder = if at == root { None } else { at.parent() };
            }
            Ok(())
        });
        let failed = |source| object_store::Error::Generic { store: "folder", source };
        synced.await.map_err(|e| failed(e.into()))?.map_err(|e| failed(e.into()))
    }
}

impl fmt::Display for DurableFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableFolder({})", self.root.display())
    }
}

#[async_trait]
impl ObjectStore for DurableFolder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
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

#[cfg(test)]
mod tests;

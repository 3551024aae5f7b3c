//! Object stores (S3, local folder, memory): opened by URL, with timeouts, retries and metrics.

mod folder;
pub mod latency;

use crate::metrics;
use bytes::Bytes;
use folder::DurableFolder;
use latency::Pace;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::prefix::PrefixStore;
use object_store::{
    GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, Result, UpdateVersion,
};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use url::Url;

/// Timeout of one attempt of a PUT or DELETE, and of all attempts of a GET together.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Attempts per PUT or GET. The S3 client itself retries broken connections and server errors, but not
/// refusals.
const ATTEMPTS_MAX: u32 = 4;
/// The pause after the nth failed attempt is this times 2ⁿ.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

/// An object store as the write and read paths use it. Every call has a timeout and is counted in the
/// metrics.
#[derive(Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    /// Artificial latency, for measurements.
    pace: Option<Pace>,
    /// Whether objects outlive the process.
    lasting: bool,
}

/// Why a request to the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the object does not exist")]
    NotFound,
    #[error("the object store did not answer in time")]
    Timeout,
    #[error("the object store failed")]
    Failed(#[source] object_store::Error),
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the URL of the object store is invalid: {0}")]
    Url(String),
    #[error("the folder of the object store cannot be created")]
    Folder(#[source] std::io::Error),
    #[error("the object store cannot be opened")]
    Store(#[from] object_store::Error),
}

/// The place of the objects, as a URL names it.
pub enum StoreLocation {
    /// In the memory of this process.
    Memory,
    Folder(PathBuf),
    /// Credentials, region and endpoint come from the usual AWS environment variables.
    Bucket {
        s3: Box<AmazonS3Builder>,
        bucket: String,
        prefix: String,
    },
}

impl StoreLocation {
    /// Parses `s3://bucket/prefix`, `file:///folder` or `memory:`.
    pub fn parse(url: &str) -> Result<Self, OpenError> {
        let url = Url::parse(url).map_err(|e| OpenError::Url(e.to_string()))?;
        match url.scheme() {
            "memory" => Ok(Self::Memory),
            "file" => {
                let folder = url.to_file_path().map_err(|()| {
                    OpenError::Url("a file URL needs three slashes: file:///folder".to_owned())
                })?;
                Ok(Self::Folder(folder))
            }
            "s3" => {
                let bucket = url.host_str().ok_or_else(|| {
                    OpenError::Url("an S3 URL needs a bucket: s3://bucket/prefix".to_owned())
                })?;
                let s3 = Box::new(AmazonS3Builder::from_env().with_bucket_name(bucket));
                Ok(Self::Bucket {
                    s3,
                    bucket: bucket.to_owned(),
                    prefix: url.path().trim_matches('/').to_owned(),
                })
            }
            other => Err(OpenError::Url(format!(
                "unknown scheme {other}: use s3://bucket/prefix or file:///folder"
            ))),
        }
    }
}

impl Store {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Self {
        Self { inner, pace: None, lasting: true }
    }

    /// Whether objects outlive the process. Only such a store can be told from another one.
    #[must_use]
    pub const fn is_lasting(&self) -> bool {
        self.lasting
    }

    /// The same store with an artificial latency on every PUT, GET and DELETE.
    #[must_use]
    pub fn slowed(self, pace: Option<Pace>) -> Self {
        Self { pace, ..self }
    }

    async fn paced<T>(&self, work: impl Future<Output = T>) -> T {
        match &self.pace {
            Some(pace) => pace.run(work).await,
            None => work.await,
        }
    }

    /// Opens the store that a URL names (see [`StoreLocation::parse`]).
    pub fn open(url: &str) -> Result<Self, OpenError> {
        match StoreLocation::parse(url)? {
            StoreLocation::Memory => Ok(Self { lasting: false, ..Self::new(Arc::new(InMemory::new())) }),
            StoreLocation::Folder(folder) => {
                std::fs::create_dir_all(&folder).map_err(OpenError::Folder)?;
                Ok(Self::local(&folder)?)
            }
            StoreLocation::Bucket { s3, prefix, .. } => Ok(Self::bucket(s3.build()?, &prefix)),
        }
    }

    /// A bucket; all keys are put under `prefix`, if that is not empty.
    #[must_use]
    pub fn bucket(s3: AmazonS3, prefix: &str) -> Self {
        if prefix.is_empty() {
            Self::new(Arc::new(s3))
        } else {
            Self::new(Arc::new(PrefixStore::new(s3, prefix)))
        }
    }

    /// A local folder. A PUT returns only after file and folders are synced to disk.
    pub fn local(folder: &std::path::Path) -> Result<Self> {
        Ok(Self::new(Arc::new(DurableFolder::open(folder)?)))
    }

    /// Writes an object. Failed attempts are repeated with the same bytes, which is safe since keys are never
    /// reused.
    pub async fn put(&self, key: &Path, bytes: &Bytes) -> Result<(), StoreError> {
        let start = Instant::now();
        let mut failure = StoreError::Timeout;
        for attempt in 0..ATTEMPTS_MAX {
            if attempt > 0 {
                tokio::time::sleep(RETRY_BACKOFF * 2_u32.pow(attempt)).await;
            }
            metrics::store_request("put");
            match tokio::time::timeout(
                REQUEST_TIMEOUT,
                self.paced(self.inner.put(key, PutPayload::from_bytes(bytes.clone()))),
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
            tracing::warn!(key = %key, attempt, error = %failure, "writing an object failed");
        }
        Err(failure)
    }

    /// Reads a byte range of an object, clipped to the object's size. [`StoreError::NotFound`] is returned
    /// only for a 404: a 403 may be temporary, or S3's way to hide a 404.
    pub async fn get_range(&self, key: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
        let start = Instant::now();
        let bytes = tokio::time::timeout(REQUEST_TIMEOUT, self.try_get_range(key, range))
            .await
            .map_err(|_| StoreError::Timeout)??;
        metrics::store_get(start.elapsed(), bytes.len());
        Ok(bytes)
    }

    async fn try_get_range(&self, key: &Path, range: Range<u64>) -> Result<Bytes, StoreError> {
        let mut attempt = 0;
        loop {
            metrics::store_request("get");
            let error = match self.paced(self.inner.get_range(key, range.clone())).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) if is_missing(&error) => return Err(StoreError::NotFound),
                Err(error) => error,
            };
            attempt += 1;
            if attempt == ATTEMPTS_MAX {
                if matches!(
                    error,
                    object_store::Error::PermissionDenied { .. }
                        | object_store::Error::Unauthenticated { .. }
                ) {
                    let error = crate::error_chain(&error);
                    tracing::error!(%key, %error, "the store refuses a read");
                }
                return Err(StoreError::Failed(error));
            }
            let chain = crate::error_chain(&error);
            tracing::warn!(%key, attempt, error = %chain, "reading an object failed");
            tokio::time::sleep(RETRY_BACKOFF * 2_u32.pow(attempt)).await;
        }
    }

    /// Reads a whole small object, with the version that a conditional replacement names. `None`: it does not
    /// exist.
    pub async fn get_versioned(&self, key: &Path) -> Result<Option<(Bytes, UpdateVersion)>, StoreError> {
        let read = async {
            let found = self.inner.get_opts(key, GetOptions::default()).await?;
            let version =
                UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
            Ok((found.bytes().await?, version))
        };
        metrics::store_request("get");
        match tokio::time::timeout(REQUEST_TIMEOUT, self.paced(read)).await {
            Ok(Ok(found)) => Ok(Some(found)),
            Ok(Err(error)) if is_missing(&error) => Ok(None),
            Ok(Err(error)) => Err(StoreError::Failed(error)),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// Writes an object if there is none (`PutMode::Create`), or if it still has a version
    /// (`PutMode::Update`). `false`: the store refused. A refusal does not prove that nothing was written,
    /// since the client may have sent the request twice; nor does an error.
    pub async fn put_if(&self, key: &Path, bytes: Bytes, mode: PutMode) -> Result<bool, StoreError> {
        use object_store::Error::{AlreadyExists, NotFound, NotModified, Precondition};
        metrics::store_request("put");
        let put = self.inner.put_opts(key, PutPayload::from_bytes(bytes), PutOptions::from(mode));
        match tokio::time::timeout(REQUEST_TIMEOUT, self.paced(put)).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(AlreadyExists { .. } | NotFound { .. } | NotModified { .. } | Precondition { .. })) => {
                Ok(false)
            }
            Ok(Err(error)) => Err(StoreError::Failed(error)),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// Deletes an object. Succeeds if it does not exist.
    pub async fn delete(&self, key: &Path) -> Result<(), StoreError> {
        metrics::store_request("delete");
        match tokio::time::timeout(REQUEST_TIMEOUT, self.paced(self.inner.delete(key))).await {
            Ok(Ok(()) | Err(object_store::Error::NotFound { .. })) => Ok(()),
            Ok(Err(e)) => Err(StoreError::Failed(e)),
            Err(_) => Err(StoreError::Timeout),
        }
    }

    /// Checks that the store answers, by a HEAD request; `key` need not exist.
    pub async fn ping(&self, key: &Path) -> Result<(), StoreError> {
        match tokio::time::timeout(Duration::from_secs(2), self.inner.head(key)).await {
            Ok(Ok(_) | Err(object_store::Error::NotFound { .. })) => Ok(()),
            Ok(Err(e)) => Err(StoreError::Failed(e)),
            Err(_) => Err(StoreError::Timeout),
        }
    }
}

/// Whether the error says that the object does not exist. A missing bucket is a wrong configuration and says
/// nothing about the object.
fn is_missing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::NotFound { .. })
        && !crate::error_chain(error).contains("NoSuchBucket")
}

#[cfg(test)]
mod tests;

//! The object store as an agent sees it, with injected faults.

use crate::fate::{Fates, Fault};
use crate::link::UnderWay;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub struct Bucket {
    pub objects: Arc<InMemory>,
    pub fates: Arc<Fates>,
    pub agent: usize,
    pub dead: CancellationToken,
    /// A planted bug: a PUT is answered before it is stored, or is never stored.
    pub forgetful: bool,
}

fn failed() -> object_store::Error {
    object_store::Error::Generic { store: "simulation", source: "injected".into() }
}

impl Bucket {
    /// Sends a change in a separate task: once sent it takes effect, even if its caller has gone.
    async fn change<T: Send + 'static>(
        &self,
        step: &'static str,
        send: impl Fn() -> BoxFuture<Result<T>> + Send + 'static,
    ) -> Result<T> {
        if self.dead.is_cancelled() {
            return std::future::pending().await;
        }
        let _under_way = UnderWay::new(&self.fates, self.agent, step);
        let fate = self.fates.put(self.agent, step);
        let deliver = |after| {
            let call = send();
            async move {
                tokio::time::sleep(after).await;
                call.await
            }
        };
        let outcome = match fate.fault {
            Some(Fault::LostCall) => {
                tokio::time::sleep(fate.before).await;
                Err(failed())
            }
            Some(Fault::Late) => {
                tokio::spawn(deliver(fate.later));
                tokio::time::sleep(fate.before).await;
                Err(failed())
            }
            Some(Fault::Hang) => std::future::pending().await,
            Some(Fault::HangApplied) => {
                tokio::spawn(deliver(fate.before));
                std::future::pending().await
            }
            fault => {
                let outcome =
                    tokio::spawn(deliver(fate.before)).await.expect("a call of the store ended in a panic");
                tokio::time::sleep(fate.after).await;
                match fault {
                    Some(Fault::LostAnswer) => Err(failed()),
                    Some(Fault::Twice) => {
                        tokio::spawn(deliver(fate.later));
                        outcome
                    }
                    _ => outcome,
                }
            }
        };
        if self.dead.is_cancelled() { std::future::pending().await } else { outcome }
    }

    async fn delete_one(&self, location: Path) -> Result<Path> {
        let objects = Arc::clone(&self.objects);
        let send = move || -> BoxFuture<Result<Path>> {
            let (objects, location) = (Arc::clone(&objects), location.clone());
            Box::pin(async move { objects.delete(&location).await.map(|()| location) })
        };
        // A late delete could do no harm: keys are never reused.
        self.change("delete", send).await
    }
}

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let (objects, location) = (Arc::clone(&self.objects), location.clone());
        if self.forgetful && self.fates.chance(100) {
            return Ok(PutResult { e_tag: None, version: None });
        }
        let send = move || -> BoxFuture<Result<PutResult>> {
            let (objects, location) = (Arc::clone(&objects), location.clone());
            let (payload, options) = (payload.clone(), options.clone());
            Box::pin(async move { objects.put_opts(&location, payload, options).await })
        };
        self.change("put", send).await
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(failed())
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if self.dead.is_cancelled() {
            return std::future::pending().await;
        }
        let _under_way = UnderWay::new(&self.fates, self.agent, "get");
        let fate = self.fates.get(self.agent);
        tokio::time::sleep(fate.before).await;
        match fate.fault {
            Some(Fault::LostCall) => return Err(failed()),
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::Missing) => {
                return Err(object_store::Error::NotFound {
                    path: location.to_string(),
                    source: "injected".into(),
                });
            }
            _ => {}
        }
        let found = self.objects.get_opts(location, options).await?;
        let (meta, range, attributes) = (found.meta.clone(), found.range.clone(), found.attributes.clone());
        let mut bytes = found.bytes().await?.to_vec();
        let at = usize::try_from(self.fates.below(u64::try_from(bytes.len()).unwrap_or(1))).unwrap_or(0);
        match fate.fault {
            Some(Fault::Flipped) => bytes[at] ^= 1,
            Some(Fault::Truncated) => bytes.truncate(at),
            _ => {}
        }
        tokio::time::sleep(fate.after).await;
        if self.dead.is_cancelled() {
            return std::future::pending().await;
        }
        let payload = GetResultPayload::Stream(stream::once(async move { Ok(Bytes::from(bytes)) }).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let bucket = self.clone();
        locations
            .then(move |location| {
                let bucket = bucket.clone();
                async move { bucket.delete_one(location?).await }
            })
            .boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        panic!("nothing lists the bucket");
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        panic!("nothing lists the bucket");
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        panic!("nothing copies objects");
    }
}

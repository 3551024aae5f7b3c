//! The S3 operations that Millpond uses, on [`Buckets`].

use super::buckets::{Buckets, Condition, Object, PutError, Versioning};
use super::{State, digest};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use millpond_core::Clock;
use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result, s3_error};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(super) struct Service(pub Arc<State>);

/// [`Buckets::changes`] of the request's key at the beginning of the request.
#[derive(Clone, Copy)]
pub(super) struct Began(pub u64);

const LIST_MAX_KEYS: i32 = 1_000;

fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn whole(bytes: Bytes) -> StreamingBlob {
    StreamingBlob::from(s3s::Body::from(bytes))
}

fn condition(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::Any), None) => Ok(Condition::Present(None)),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Present(Some(etag.value().to_owned()))),
        _ => Err(s3_error!(NotImplemented, "a condition that S3 does not know")),
    }
}

/// Checks the conditions of GET and HEAD.
fn check_read(
    object: &Object,
    if_match: Option<&ETagCondition>,
    if_none_match: Option<&ETagCondition>,
) -> S3Result<()> {
    let is = |condition: &ETagCondition| condition.as_etag().is_none_or(|etag| etag.value() == object.etag);
    if if_match.is_some_and(|condition| !is(condition)) {
        return Err(s3_error!(PreconditionFailed));
    }
    if if_none_match.is_some_and(is) {
        return Err(s3_error!(NotModified));
    }
    Ok(())
}

impl Service {
    fn object(&self, bucket: &str, key: &str) -> S3Result<Object> {
        let buckets = self.0.buckets.lock();
        let bucket = buckets.bucket(bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
        bucket.objects.get(key).cloned().ok_or_else(|| s3_error!(NoSuchKey))
    }

    fn bucket<T>(&self, name: &str, look: impl FnOnce(&super::buckets::Bucket) -> T) -> S3Result<T> {
        self.0.buckets.lock().bucket(name).map(look).ok_or_else(|| s3_error!(NoSuchBucket))
    }
}

#[async_trait]
impl S3 for Service {
    async fn put_object(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let began = req.extensions.get::<Began>().map_or(0, |began| began.0);
        let PutObjectInput { body, bucket, key, if_match, if_none_match, .. } = req.input;
        let body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
        let body: BytesMut =
            body.try_collect().await.map_err(|e| S3Error::with_source(S3ErrorCode::IncompleteBody, e))?;
        let body = body.freeze();
        digest::verify(&req.headers, &body)?;
        if let Some(trailers) = req.trailing_headers.and_then(|trailers| trailers.take()) {
            digest::verify(&trailers, &body)?;
        }
        let condition = condition(if_match.as_ref(), if_none_match.as_ref())?;
        let stored = self.0.buckets.lock().put(&bucket, &key, body, &condition, began, self.0.clock.now_ms());
        let etag = stored.map_err(|error| match error {
            PutError::NoSuchBucket => s3_error!(NoSuchBucket),
            PutError::NoSuchKey => s3_error!(NoSuchKey),
            PutError::Precondition => s3_error!(PreconditionFailed),
            PutError::Conflict => {
                s3_error!(ConditionalRequestConflict, "another request on this key was under way")
            }
        })?;
        Ok(S3Response::new(PutObjectOutput { e_tag: Some(ETag::Strong(etag)), ..Default::default() }))
    }

    async fn get_object(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let GetObjectInput { bucket, key, range, if_match, if_none_match, .. } = req.input;
        let object = self.object(&bucket, &key)?;
        check_read(&object, if_match.as_ref(), if_none_match.as_ref())?;
        let size = object.bytes.len();
        let (bytes, content_range) = match range {
            None => (object.bytes.clone(), None),
            Some(range) => {
                let part = range
                    .check(u64::try_from(size).unwrap_or(u64::MAX))
                    .map_err(|_| s3_error!(InvalidRange))?;
                let told = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
                (object.bytes.slice(at(part.start)..at(part.end)), Some(told))
            }
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(length(bytes.len())),
            content_range,
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(timestamp(object.modified_ms)),
            body: Some(whole(bytes)),
            ..Default::default()
        }))
    }

    async fn head_object(&self, req: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let HeadObjectInput { bucket, key, if_match, if_none_match, .. } = req.input;
        let object = self.object(&bucket, &key)?;
        check_read(&object, if_match.as_ref(), if_none_match.as_ref())?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(length(object.bytes.len())),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(ETag::Strong(object.etag)),
            last_modified: Some(timestamp(object.modified_ms)),
            ..Default::default()
        }))
    }

    /// Deleting a key without an object succeeds.
    async fn delete_object(
        &self,
        req: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        self.bucket(&req.input.bucket, |_| ())?;
        self.0.buckets.lock().remove(&req.input.bucket, &req.input.key);
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        req: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete, .. } = req.input;
        self.bucket(&bucket, |_| ())?;
        let mut buckets = self.0.buckets.lock();
        let mut deleted = Vec::new();
        for object in delete.objects {
            buckets.remove(&bucket, &object.key);
            deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let page = page(&self.0.buckets.lock(), &req.input)?;
        Ok(S3Response::new(page))
    }

    async fn head_bucket(&self, req: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.bucket(&req.input.bucket, |_| S3Response::new(HeadBucketOutput::default()))
    }

    async fn get_bucket_versioning(
        &self,
        req: S3Request<GetBucketVersioningInput>,
    ) -> S3Result<S3Response<GetBucketVersioningOutput>> {
        let status = self.bucket(&req.input.bucket, |bucket| match bucket.versioning {
            Versioning::Unset => None,
            Versioning::Enabled => Some(BucketVersioningStatus::from_static(BucketVersioningStatus::ENABLED)),
            Versioning::Suspended => {
                Some(BucketVersioningStatus::from_static(BucketVersioningStatus::SUSPENDED))
            }
        })?;
        Ok(S3Response::new(GetBucketVersioningOutput { status, ..Default::default() }))
    }

    async fn get_bucket_encryption(
        &self,
        req: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
        let algorithm = self.bucket(&req.input.bucket, |bucket| bucket.encryption.clone())?;
        let algorithm = algorithm.ok_or_else(|| s3_error!(ServerSideEncryptionConfigurationNotFoundError))?;
        let by_default = ServerSideEncryptionByDefault {
            kms_master_key_id: None,
            sse_algorithm: ServerSideEncryption::from(algorithm),
        };
        let rule = ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(by_default),
            bucket_key_enabled: None,
        };
        let server_side_encryption_configuration =
            Some(ServerSideEncryptionConfiguration { rules: vec![rule] });
        Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration }))
    }
}

/// One page of keys and common prefixes, in one order. The token is the last one returned.
fn page(buckets: &Buckets, input: &ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
    let bucket = buckets.bucket(&input.bucket).ok_or_else(|| s3_error!(NoSuchBucket))?;
    let prefix = input.prefix.clone().unwrap_or_default();
    let after = input.continuation_token.clone().or_else(|| input.start_after.clone()).unwrap_or_default();
    let limit = usize::try_from(input.max_keys.unwrap_or(LIST_MAX_KEYS).clamp(0, LIST_MAX_KEYS)).unwrap_or(0);
    let (mut contents, mut prefixes, mut last) = (Vec::new(), BTreeSet::new(), None);
    let mut is_truncated = false;
    for (key, object) in
        bucket.objects.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix))
    {
        let common = input.delimiter.as_deref().filter(|d| !d.is_empty()).and_then(|delimiter| {
            let end = key[prefix.len()..].find(delimiter)? + prefix.len() + delimiter.len();
            Some(key[..end].to_owned())
        });
        let name = common.clone().unwrap_or_else(|| key.clone());
        if name <= after || prefixes.contains(&name) {
            continue;
        }
        if contents.len() + prefixes.len() == limit {
            is_truncated = true;
            break;
        }
        last = Some(name);
        match common {
            Some(common) => {
                prefixes.insert(common);
            }
            None => contents.push(s3s::dto::Object {
                key: Some(key.clone()),
                size: Some(length(object.bytes.len())),
                e_tag: Some(ETag::Strong(object.etag.clone())),
                last_modified: Some(timestamp(object.modified_ms)),
                ..Default::default()
            }),
        }
    }
    Ok(ListObjectsV2Output {
        name: Some(input.bucket.clone()),
        prefix: input.prefix.clone(),
        delimiter: input.delimiter.clone(),
        max_keys: input.max_keys,
        key_count: i32::try_from(contents.len() + prefixes.len()).ok(),
        continuation_token: input.continuation_token.clone(),
        next_continuation_token: last.filter(|_| is_truncated),
        is_truncated: Some(is_truncated),
        contents: Some(contents),
        common_prefixes: Some(
            prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(prefix) }).collect(),
        ),
        ..Default::default()
    })
}

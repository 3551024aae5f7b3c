//! Buckets and their objects.

use bytes::Bytes;
use s3s::crypto::{Checksum, Md5};
use std::collections::BTreeMap;
use std::fmt::Write;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// Versioning was never configured, so answers do not mention it.
    #[default]
    Unset,
    Enabled,
    Suspended,
}

#[derive(Clone, Debug)]
pub(super) struct Object {
    pub bytes: Bytes,
    /// The object's MD5 in hexadecimal, without quotes.
    pub etag: String,
    pub modified_ms: i64,
}

#[derive(Debug, Default)]
pub(super) struct Bucket {
    pub objects: BTreeMap<String, Object>,
    pub versioning: Versioning,
    pub encryption: Option<String>,
    /// Number of writes and deletions of each key, which shows that a key changed while a request was under
    /// way.
    changes: BTreeMap<String, u64>,
}

/// Condition of a PUT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    None,
    /// `If-None-Match: *`: there must be no object.
    Absent,
    /// `If-Match`: there must be an object, with this ETag if one is named.
    Present(Option<String>),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum PutError {
    NoSuchBucket,
    /// `If-Match` on a key without an object.
    NoSuchKey,
    Precondition,
    /// The key changed after the conditional request began.
    Conflict,
}

#[derive(Debug, Default)]
pub(super) struct Buckets {
    buckets: BTreeMap<String, Bucket>,
}

impl Buckets {
    pub fn create(&mut self, name: &str) {
        self.buckets.entry(name.to_owned()).or_default();
    }

    pub fn bucket(&self, name: &str) -> Option<&Bucket> {
        self.buckets.get(name)
    }

    pub fn bucket_mut(&mut self, name: &str) -> Option<&mut Bucket> {
        self.buckets.get_mut(name)
    }

    /// Number of changes of a key.
    pub fn changes(&self, bucket: &str, key: &str) -> u64 {
        self.bucket(bucket).and_then(|b| b.changes.get(key)).copied().unwrap_or(0)
    }

    pub fn store(&mut self, bucket: &str, key: &str, bytes: Bytes, now_ms: i64) -> Option<String> {
        let bucket = self.bucket_mut(bucket)?;
        let etag = hex(Md5::checksum(&bytes).as_ref());
        *bucket.changes.entry(key.to_owned()).or_default() += 1;
        bucket.objects.insert(key.to_owned(), Object { bytes, etag: etag.clone(), modified_ms: now_ms });
        Some(etag)
    }

    /// Checks the condition and writes in one step; `began` is [`Self::changes`] at the beginning of the
    /// request.
    pub fn put(
        &mut self,
        name: &str,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
        began: u64,
        now_ms: i64,
    ) -> Result<String, PutError> {
        let bucket = self.bucket(name).ok_or(PutError::NoSuchBucket)?;
        let there = bucket.objects.get(key);
        if *condition != Condition::None && self.changes(name, key) != began {
            return Err(PutError::Conflict);
        }
        match (condition, there) {
            (Condition::Absent, Some(_)) => return Err(PutError::Precondition),
            (Condition::Present(_), None) => return Err(PutError::NoSuchKey),
            (Condition::Present(Some(etag)), Some(object)) if object.etag != *etag => {
                return Err(PutError::Precondition);
            }
            _ => {}
        }
        self.store(name, key, bytes, now_ms).ok_or(PutError::NoSuchBucket)
    }

    pub fn remove(&mut self, bucket: &str, key: &str) -> bool {
        let Some(bucket) = self.bucket_mut(bucket) else { return false };
        let removed = bucket.objects.remove(key).is_some();
        if removed {
            *bucket.changes.entry(key.to_owned()).or_default() += 1;
        }
        removed
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

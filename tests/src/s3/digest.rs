//! Verification of the digests that a request states for its body.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use s3s::crypto::{Checksum, Crc32, Crc32c, Crc64Nvme, Md5, Sha1, Sha256};
use s3s::{S3Result, s3_error};

fn encoded<C: Checksum>(body: &[u8]) -> String {
    STANDARD.encode(C::checksum(body))
}

type Digest = fn(&[u8]) -> String;
const DIGESTS: [(&str, Digest); 6] = [
    ("content-md5", encoded::<Md5>),
    ("x-amz-checksum-crc32", encoded::<Crc32>),
    ("x-amz-checksum-crc32c", encoded::<Crc32c>),
    ("x-amz-checksum-crc64nvme", encoded::<Crc64Nvme>),
    ("x-amz-checksum-sha1", encoded::<Sha1>),
    ("x-amz-checksum-sha256", encoded::<Sha256>),
];

/// Refuses a body that does not match a digest in the headers or trailers.
pub(super) fn verify(headers: &HeaderMap, body: &[u8]) -> S3Result<()> {
    for (name, digest) in DIGESTS {
        if let Some(claimed) = headers.get(name)
            && claimed.as_bytes() != digest(body).as_bytes()
        {
            return Err(s3_error!(BadDigest, "the {name} you specified did not match what we received"));
        }
    }
    Ok(())
}

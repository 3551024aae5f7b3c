//! Checks whether a bucket can be used as the object store, with the same client as agents use.

#[cfg(feature = "s3-doctor")]
mod api;

use super::probe;
use super::report::Report;
use millpond_core::Clock;
use millpond_engine::error_chain;
use millpond_engine::store::Store;
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::{ClientConfigKey, RetryConfig};
use std::time::Duration;

/// Longest wait for one request to the bucket, and the time after which it is not retried any more.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(10);
/// Retries of a request: few, so that an unreachable store is reported soon.
const RETRIES_MAX: u32 = 2;
/// Advice for a request that was denied.
const RIGHTS: &str = "the credentials need s3:GetObject, s3:PutObject, s3:DeleteObject on \
    bucket/prefix/* and s3:ListBucket on the bucket; for this command also s3:GetBucketVersioning and \
    s3:GetEncryptionConfiguration";

/// The address of a bucket.
struct BucketAddress {
    pub bucket: String,
    /// The endpoint, or AWS and the region, as it is printed.
    pub place: String,
    pub region: String,
    pub endpoint: Option<String>,
    pub is_virtual_hosted: bool,
}

/// `name` is the key of the probe object.
pub async fn check(
    s3: AmazonS3Builder,
    bucket: &str,
    prefix: &str,
    name: &str,
    clock: &dyn Clock,
    report: &mut Report,
) {
    let endpoint = s3.get_config_value(&AmazonS3ConfigKey::Endpoint);
    let hosted = s3.get_config_value(&AmazonS3ConfigKey::VirtualHostedStyleRequest);
    let region = s3.get_config_value(&AmazonS3ConfigKey::Region).unwrap_or_else(|| "us-east-1".to_owned());
    let at = BucketAddress {
        bucket: bucket.to_owned(),
        place: endpoint.clone().unwrap_or_else(|| format!("AWS, {region}")),
        region,
        endpoint,
        is_virtual_hosted: hosted.is_some_and(|v| v == "true"),
    };
    let retry = RetryConfig {
        max_retries: usize::try_from(RETRIES_MAX).unwrap_or(1),
        retry_timeout: REQUEST_WAIT_MAX,
        ..RetryConfig::default()
    };
    let timeout = AmazonS3ConfigKey::Client(ClientConfigKey::Timeout);
    let s3 = match s3.with_retry(retry).with_config(timeout, "10 seconds").build() {
        Ok(s3) => s3,
        Err(error) => {
            let advice = "set the AWS_* variables: region, endpoint, credentials";
            return report.fail("store.url", error_chain(&error), advice);
        }
    };
    #[cfg(feature = "s3-doctor")]
    {
        let Some(api) = api::Api::reach(&s3, &at, clock, report).await else { return };
        if probe::check(&Store::bucket(s3, prefix), name, RIGHTS, report).await {
            api.settings(report).await;
        }
    }
    #[cfg(not(feature = "s3-doctor"))]
    {
        let _ = clock;
        if probe::check(&Store::bucket(s3, prefix), name, RIGHTS, report).await {
            let place = format!("bucket {} at {} (endpoint {:?})", at.bucket, at.place, at.endpoint);
            let left_out =
                "clock, versioning and encryption are not checked: built without the feature s3-doctor";
            report.info("store.settings", format!("{place}: {left_out}"));
        }
    }
}

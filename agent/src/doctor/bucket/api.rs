//! Checks of a bucket that need the AWS SDK, since `object_store` has no calls for them: precise errors, the
//! store's clock, versioning and encryption. Compiled with the feature `s3-doctor`.

use super::{BucketAddress, REQUEST_WAIT_MAX, RETRIES_MAX, RIGHTS};
use crate::doctor::report::Report;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::retry::RetryConfig as AwsRetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, ConfigBag, Credentials, Intercept, Region, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_sdk_s3::types::BucketVersioningStatus;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use millpond_core::Clock;
use millpond_engine::error_chain;
use object_store::aws::AmazonS3;
use parking_lot::Mutex;
use std::sync::Arc;

/// Difference of clocks from which on S3 refuses signed requests (`RequestTimeTooSkewed`), in seconds.
const CLOCK_SKEW_REFUSED_S: i64 = 15 * 60;
/// Difference of clocks from which on there is a warning, in seconds.
const CLOCK_SKEW_WARN_S: i64 = 60;

/// A bucket that can be reached, and the SDK's client for it.
pub struct Api {
    client: Client,
    bucket: String,
}

impl Api {
    /// Checks credentials, the bucket and the clock. `None` if there are no credentials or the bucket cannot
    /// be reached; the report then has a failure.
    pub async fn reach(
        s3: &AmazonS3,
        at: &BucketAddress,
        clock: &dyn Clock,
        report: &mut Report,
    ) -> Option<Self> {
        let date = Arc::new(ServerDate::default());
        let client = match client(s3, at, Arc::clone(&date)).await {
            Ok(client) => client,
            Err(error) => {
                let advice =
                    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run where a role gives them";
                report.fail("store.credentials", error_chain(&error), advice);
                return None;
            }
        };
        let is_reached = reach(&client, &at.bucket, &at.place, report).await;
        clocks(&date, clock, report);
        is_reached.then(|| Self { client, bucket: at.bucket.clone() })
    }

    /// Checks settings of the bucket that protect its objects.
    pub async fn settings(&self, report: &mut Report) {
        versioning(&self.client, &self.bucket, report).await;
        encryption(&self.client, &self.bucket, report).await;
    }
}

/// An SDK client with the credentials that agents would use.
async fn client(
    s3: &AmazonS3,
    at: &BucketAddress,
    date: Arc<ServerDate>,
) -> Result<Client, object_store::Error> {
    let found = s3.credentials().get_credential().await?;
    let credentials =
        Credentials::new(found.key_id.clone(), found.secret_key.clone(), found.token.clone(), None, "agent");
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(REQUEST_WAIT_MAX).build();
    let mut config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(at.region.clone()))
        .credentials_provider(credentials)
        .http_client(
            aws_smithy_http_client::Builder::new()
                .tls_provider(Provider::Rustls(CryptoMode::Ring))
                .build_https(),
        )
        .retry_config(AwsRetryConfig::standard().with_max_attempts(RETRIES_MAX + 1))
        .timeout_config(timeouts)
        .interceptor(DateInterceptor(date));
    if let Some(endpoint) = &at.endpoint {
        config = config.endpoint_url(endpoint).force_path_style(!at.is_virtual_hosted);
    }
    Ok(Client::from_conf(config.build()))
}

/// The `Date` header of the last answer, also if it was an error.
#[derive(Debug, Default)]
struct ServerDate(Mutex<Option<String>>);

/// Stores the `Date` header of every answer.
#[derive(Debug)]
struct DateInterceptor(Arc<ServerDate>);

impl Intercept for DateInterceptor {
    fn name(&self) -> &'static str {
        "ServerDate"
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *self.0.0.lock() = context.response().headers().get("date").map(str::to_owned);
        Ok(())
    }
}

/// The S3 error code of an error, or a text that says that there is none.
fn code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> String {
    match error.as_service_error().and_then(ProvideErrorMetadata::code) {
        Some(code) => code.to_owned(),
        None => "not an answer of S3".to_owned(),
    }
}

/// Lists at most one key to see whether the bucket can be reached. Unlike that of HEAD, the answer has a body
/// that says why a request was refused.
async fn reach(client: &Client, bucket: &str, place: &str, report: &mut Report) -> bool {
    let listed = client.list_objects_v2().bucket(bucket).max_keys(1).send().await;
    let error = match listed {
        Ok(_) => {
            report.ok("store.reachable", format!("bucket {bucket} at {place}"));
            return true;
        }
        Err(error) => error,
    };
    let (code, check) = (code(&error), "store.reachable");
    let told = |what: &str| format!("bucket {bucket} at {place}: {what}");
    match code.as_str() {
        "NoSuchBucket" => report.fail(
            check,
            told("there is no such bucket"),
            "make the bucket, or correct --store and AWS_REGION",
        ),
        "InvalidAccessKeyId" | "NotSignedUp" | "SignatureDoesNotMatch" | "InvalidToken" | "ExpiredToken" => {
            let advice = "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN";
            report.fail(check, told(&format!("the credentials are refused ({code})")), advice);
        }
        "RequestTimeTooSkewed" => report.fail(check, told("the clock of this machine is wrong"), "run NTP"),
        "PermanentRedirect" | "AuthorizationHeaderMalformed" => {
            report.fail(
                check,
                told(&format!("the bucket lies in another region ({code})")),
                "set AWS_REGION to the bucket's region",
            );
        }
        "AccessDenied" => {
            // Agents never list. But without this right, S3 answers 403 instead of 404 for a missing object.
            report.warn(check, told("listing is not allowed (s3:ListBucket)"), RIGHTS);
            return true;
        }
        _ => {
            let what = format!("{code}: {}", error_chain(&error));
            report.fail(
                check,
                told(&what),
                "check AWS_ENDPOINT (and AWS_ALLOW_HTTP=true for http), the network, and the store's health",
            );
        }
    }
    false
}

fn clocks(date: &ServerDate, clock: &dyn Clock, report: &mut Report) {
    let parsed =
        date.0.lock().as_deref().and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
    let Some(server) = parsed else { return };
    let ahead_s = server.secs() - clock.now_ms() / 1_000;
    let told = format!("the store's clock is {ahead_s} s ahead of ours");
    match ahead_s.abs() {
        CLOCK_SKEW_REFUSED_S.. => report.fail(
            "store.clock",
            told,
            "run NTP: signed requests are refused when clocks differ by 15 minutes or more",
        ),
        CLOCK_SKEW_WARN_S..CLOCK_SKEW_REFUSED_S => report.warn(
            "store.clock",
            told,
            "run NTP: requests are refused when clocks differ by 15 minutes or more",
        ),
        _ => report.ok("store.clock", told),
    }
}

async fn versioning(client: &Client, bucket: &str, report: &mut Report) {
    let check = "store.versioning";
    let advice = format!(
        "switch it on, so that deleted segments can be restored: aws s3api put-bucket-versioning \
         --bucket {bucket} --versioning-configuration Status=Enabled, and add a lifecycle rule that expires \
         noncurrent versions after as many days as backups of the database are kept"
    );
    match client.get_bucket_versioning().bucket(bucket).send().await {
        Ok(answer) => match answer.status() {
            Some(BucketVersioningStatus::Enabled) => {
                report.ok(check, "on; a lifecycle rule should expire noncurrent versions")
            }
            Some(BucketVersioningStatus::Suspended) => report.warn(check, "suspended", advice),
            _ => report.warn(check, "off", advice),
        },
        Err(error) => report.info(check, format!("cannot be read: {}", code(&error))),
    }
}

async fn encryption(client: &Client, bucket: &str, report: &mut Report) {
    let check = "store.encryption";
    match client.get_bucket_encryption().bucket(bucket).send().await {
        Ok(answer) => {
            let rules = answer.server_side_encryption_configuration().map(|c| c.rules()).unwrap_or_default();
            let algorithm = rules
                .iter()
                .find_map(|rule| rule.apply_server_side_encryption_by_default())
                .map(|d| d.sse_algorithm().as_str());
            match algorithm {
                Some(algorithm) => report.ok(check, algorithm),
                None => report.warn(check, "no default", "set a default encryption for the bucket"),
            }
        }
        Err(error) if code(&error) == "ServerSideEncryptionConfigurationNotFoundError" => {
            let advice = format!(
                "set a default encryption for the bucket: \
                 aws s3api put-bucket-encryption --bucket {bucket} …"
            );
            report.warn(check, "no default", advice);
        }
        Err(error) => report.info(check, format!("cannot be read: {}", code(&error))),
    }
}

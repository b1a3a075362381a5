//! The client: aws-sdk-s3 put together by hand, because its defaults bring a second TLS stack, checksums that other
//! stores do not know, and time limits that are not ours.

use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::{RetryConfig, RetryPartition, TokenBucket};
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    AppName, BehaviorVersion, Config, Credentials, IdentityCache, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_http_client::{Builder, Connector};
use aws_smithy_types::retry::RetrySpec;

use super::retry::OurRetries;
use super::settings::S3Settings;

/// How long a connection may take, with its TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept. A snapshot is a burst; between two of them there is nothing to keep.
const IDLE: Duration = Duration::from_secs(10);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// Pauses after "too many requests" are so many times as long as others: R2 takes one write a second for one key.
const THROTTLED: u32 = 4;

/// A client of a bucket's server.
pub(super) fn make(settings: &S3Settings) -> Client {
    let token = settings.token().map(str::to_owned);
    let keys = Credentials::new(settings.key_id(), settings.secret(), token, None, "settings");
    let retries = RetryConfig::standard()
        .with_max_attempts(settings.attempts.max(1))
        .with_initial_backoff(settings.backoff * THROTTLED)
        .with_max_backoff(LONGEST_PAUSE)
        .with_retry_spec(RetrySpec::v2_1().with_non_throttling_initial_backoff(settings.backoff));
    // Every request has its attempts. A budget for all of them together, shared by all clients of a process, would let a
    // store that was away for an hour fail at the first stumble after it.
    let no_budget = RetryPartition::custom("serena-snapshotd").token_bucket(TokenBucket::unlimited()).build();
    let timeouts =
        TimeoutConfig::builder().connect_timeout(CONNECT).operation_attempt_timeout(settings.timeout).build();
    let mut config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .app_name(AppName::new("serena-snapshotd").expect("letters and a hyphen are an app name"))
        .region(Region::new(settings.region().to_owned()))
        .force_path_style(settings.path_style.unwrap_or(settings.endpoint.is_some()))
        .credentials_provider(SharedCredentialsProvider::new(keys))
        .identity_cache(IdentityCache::no_cache())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .timeout_config(timeouts)
        .retry_config(retries)
        .retry_partition(no_budget)
        .retry_classifier(OurRetries)
        .http_client(http_client(settings.endpoint.as_deref()));
    config.set_endpoint_url(settings.endpoint.clone());
    Client::from_conf(config.build())
}

/// Without TLS where the endpoint has none: roots of trust take memory. `SSL_CERT_FILE` and `SSL_CERT_DIR` name others
/// than the system's; `HTTPS_PROXY` and `NO_PROXY` count for `https` alone.
fn http_client(endpoint: Option<&str>) -> SharedHttpClient {
    let has_tls = !endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
    Builder::new().build_with_connector_fn(move |settings, _| {
        let mut connector = Connector::builder().pool_idle_timeout(IDLE);
        connector.set_connector_settings(settings.cloned());
        if has_tls {
            let connector = connector.proxy_config(ProxyConfig::from_env());
            connector.tls_provider(Provider::Rustls(CryptoMode::AwsLc)).build()
        } else {
            connector.build_http()
        }
    })
}

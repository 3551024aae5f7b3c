//! An S3 in memory, over HTTP on a loopback port: strict where S3 is strict, and failing as it is told.
//!
//! Signatures, conditions and checksums are verified as S3 verifies them. Whoever is under test uses its
//! usual client, with the variables of [`TestS3::env`]. Requests are counted and objects can be looked at,
//! damaged and removed from outside.

mod buckets;
mod digest;
mod fault;
mod server;
mod service;
#[cfg(test)]
mod tests;

pub use buckets::Versioning;
pub use fault::{Fault, Op, Rule, parse_rule};

use buckets::Buckets;
use bytes::Bytes;
use fault::Faults;
use millpond_core::SystemClock;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::sync::oneshot;

pub const ACCESS_KEY: &str = "millpond-test";
pub const SECRET_KEY: &str = "millpond-test-secret";
pub const REGION: &str = "us-east-1";

/// What the server and its owner share.
struct State {
    clock: SystemClock,
    /// How far the server's clock is off, as its `Date` headers tell it.
    skew_ms: AtomicI64,
    buckets: Mutex<Buckets>,
    faults: Mutex<Faults>,
    requests: Mutex<BTreeMap<(Op, String), u64>>,
}

/// A running S3; it ends when this is dropped. It has a thread and a runtime of its own.
pub struct TestS3 {
    address: SocketAddr,
    state: Arc<State>,
    _stop: oneshot::Sender<()>,
}

impl TestS3 {
    /// On a free port. Faults are drawn from the seed.
    #[must_use]
    pub fn start(seed: u64) -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)), seed).expect("a free port")
    }

    /// # Errors
    /// The address cannot be listened on.
    pub fn listen(address: SocketAddr, seed: u64) -> std::io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            clock: SystemClock,
            skew_ms: AtomicI64::new(0),
            buckets: Mutex::default(),
            faults: Mutex::new(Faults::new(seed)),
            requests: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel();
        let served = Arc::clone(&state);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = server::serve(listener, served) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, state, _stop: stop })
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The variables by which clients find it and sign.
    #[must_use]
    pub fn env(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ENDPOINT", self.url()),
            ("AWS_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// Makes a bucket; one that is there stays as it is.
    pub fn create_bucket(&self, bucket: &str) {
        self.state.buckets.lock().create(bucket);
    }

    pub fn set_versioning(&self, bucket: &str, versioning: Versioning) {
        self.state.buckets.lock().bucket_mut(bucket).expect("a bucket").versioning = versioning;
    }

    /// The default encryption that the bucket has, as `AES256`.
    pub fn set_encryption(&self, bucket: &str, algorithm: Option<&str>) {
        self.state.buckets.lock().bucket_mut(bucket).expect("a bucket").encryption =
            algorithm.map(str::to_owned);
    }

    /// Lets the server's clock, as `Date` headers tell it, go wrong by so much.
    pub fn set_clock_skew_ms(&self, skew_ms: i64) {
        self.state.skew_ms.store(skew_ms, Ordering::SeqCst);
    }

    /// From now on; the first rule that fires decides about a request.
    pub fn add_fault(&self, rule: Rule) {
        self.state.faults.lock().add(rule);
    }

    /// No more faults from now on; counts stay.
    pub fn clear_faults(&self) {
        self.state.faults.lock().clear();
    }

    /// How often each fault happened.
    #[must_use]
    pub fn injected(&self) -> BTreeMap<Fault, u64> {
        self.state.faults.lock().injected.clone()
    }

    /// Requests of a kind so far, those that failed among them.
    #[must_use]
    pub fn requests(&self, op: Op) -> u64 {
        self.requests_by_key(op).values().sum()
    }

    /// The same by object key.
    #[must_use]
    pub fn requests_by_key(&self, op: Op) -> BTreeMap<String, u64> {
        let requests = self.state.requests.lock();
        requests
            .iter()
            .filter(|((of, _), _)| *of == op)
            .map(|((_, key), count)| (key.clone(), *count))
            .collect()
    }

    /// The keys of a bucket's objects, in order.
    #[must_use]
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.state
            .buckets
            .lock()
            .bucket(bucket)
            .map(|b| b.objects.keys().cloned().collect())
            .unwrap_or_default()
    }

    #[must_use]
    pub fn get(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.state.buckets.lock().bucket(bucket)?.objects.get(key).map(|object| object.bytes.clone())
    }

    /// Puts bytes behind everybody's back.
    pub fn put(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) {
        let now_ms = millpond_core::Clock::now_ms(&self.state.clock);
        self.state.buckets.lock().store(bucket, key, bytes.into(), now_ms).expect("a bucket");
    }

    /// True if there was such an object.
    pub fn delete(&self, bucket: &str, key: &str) -> bool {
        self.state.buckets.lock().remove(bucket, key)
    }

    /// Turns a bit in the middle of an object.
    pub fn corrupt(&self, bucket: &str, key: &str) {
        let mut bytes = self.get(bucket, key).expect("an object").to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        self.put(bucket, key, bytes);
    }
}

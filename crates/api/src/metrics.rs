//! What is counted, and how it is told to Prometheus.
//!
//! A core counts in a [`Lane`] of its own, plain additions on memory that no other core writes; reading adds the lanes up.
//!
//! Always: names of operations, of reasons and of gauges, and numbers.
//! Never: a key id, a principal, an address, or anything else that a request brought along.

use crate::health::{BoundaryState, Health, Serving};
use crate::operation::Operation;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One a process; clones share it.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    lanes: Lanes,
}

/// One core's counters.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Counts>);

#[derive(Debug, Clone, Default)]
struct Lanes(Arc<Mutex<Vec<Arc<Counts>>>>);

#[derive(Debug)]
struct Counts {
    /// By operation, in the order of [`Operation::ALL`].
    done: Vec<Latencies>,
    /// What was refused or failed, by reason. Off the fast path.
    failed: Mutex<BTreeMap<(Operation, &'static str), u64>>,
}

#[derive(Debug, Default)]
struct Latencies {
    succeeded: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// A number that is read when it is asked for.
struct Reading {
    name: String,
    help: String,
    read: Box<dyn Fn() -> i64 + Send + Sync>,
}

impl Metrics {
    /// `version` is the server's.
    pub fn new(version: &'static str, health: &Health) -> Self {
        let (lanes, mut registry) = (Lanes::default(), Registry::with_prefix("strongroom"));
        registry.register("build", "The server's version", Info::new([("version", version)]));
        registry.register_collector(Box::new(lanes.clone()));
        let metrics = Self { registry: Arc::new(Mutex::new(registry)), lanes };
        let told = health.clone();
        metrics.gauge("serving", "1 while requests are served", move || {
            i64::from(matches!(told.state().serving, Serving::Serving))
        });
        let told = health.clone();
        metrics.gauge("boundary_available", "1 while the boundary answers", move || {
            i64::from(matches!(told.state().boundary, BoundaryState::Available))
        });
        metrics
    }

    /// Adds `strongroom_NAME`, read at every scrape: sizes of caches, lengths of queues.
    pub fn gauge(&self, name: &str, help: &str, read: impl Fn() -> i64 + Send + Sync + 'static) {
        let reading = Reading { name: name.to_owned(), help: help.to_owned(), read: Box::new(read) };
        locked(&self.registry).register_collector(Box::new(reading));
    }

    /// OpenMetrics text.
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        // writing to memory fails for no value of these types
        let _ = prometheus_client::encoding::text::encode(&mut text, &locked(&self.registry));
        text
    }

    pub(crate) fn lane(&self) -> Lane {
        let done = Operation::ALL.iter().map(|_| Latencies::default()).collect();
        let counts = Arc::new(Counts { done, failed: Mutex::default() });
        locked(&self.lanes.0).push(Arc::clone(&counts));
        Lane(counts)
    }
}

impl vault::service::Telemetry for Metrics {
    fn render(&self) -> String {
        Self::render(self)
    }
}

impl Lane {
    pub(crate) fn succeeded(&self, operation: Operation, took: Duration) {
        if let Some(latencies) = self.0.done.get(operation as usize) {
            latencies.succeeded.fetch_add(1, Ordering::Relaxed);
            latencies.note(took);
        }
    }

    pub(crate) fn failed(&self, operation: Operation, reason: &'static str, took: Duration) {
        if let Some(latencies) = self.0.done.get(operation as usize) {
            latencies.note(took);
        }
        *locked(&self.0.failed).entry((operation, reason)).or_default() += 1;
    }
}

impl Latencies {
    fn note(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if let Some(bucket) = self.buckets.get(bucket(nanos)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The first bucket whose bound is not below `nanos`.
fn bucket(nanos: u64) -> usize {
    let micros = nanos.div_ceil(1000);
    let doublings = u64::BITS - (micros.saturating_sub(1) / FIRST_BOUND_MICROS).leading_zeros();
    (doublings as usize).min(BUCKETS - 1)
}

/// Upper bound of a bucket in seconds.
fn bound(bucket: usize) -> f64 {
    if bucket + 1 == BUCKETS {
        return f64::INFINITY;
    }
    Duration::from_micros(FIRST_BOUND_MICROS << bucket).as_secs_f64()
}

impl Collector for Lanes {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let lanes = locked(&self.0).clone();
        let mut requests: BTreeMap<(Operation, &'static str), u64> = BTreeMap::new();
        for lane in &lanes {
            for (operation, latencies) in Operation::ALL.iter().zip(&lane.done) {
                *requests.entry((*operation, "OK")).or_default() += latencies.succeeded.load(Ordering::Relaxed);
            }
            for (key, count) in locked(&lane.failed).iter() {
                *requests.entry(*key).or_default() += count;
            }
        }
        encode_requests(&mut encoder, &requests)?;
        encode_dependencies(&mut encoder, &requests)?;
        encode_latencies(&mut encoder, &lanes)
    }
}

type Requests = BTreeMap<(Operation, &'static str), u64>;

fn encode_requests(encoder: &mut DescriptorEncoder<'_>, requests: &Requests) -> fmt::Result {
    let help = "Requests that were answered, by operation and outcome";
    let mut family = encoder.encode_descriptor("requests", help, None, MetricType::Counter)?;
    for ((operation, outcome), count) in requests.iter().filter(|(_, count)| **count > 0) {
        let labels = [("operation", operation.name()), ("outcome", outcome)];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
    }
    Ok(())
}

fn encode_dependencies(encoder: &mut DescriptorEncoder<'_>, requests: &Requests) -> fmt::Result {
    let help = "Requests that failed because something that they need was away";
    let mut family = encoder.encode_descriptor("dependency_failures", help, None, MetricType::Counter)?;
    for (dependency, reason) in DEPENDENCIES {
        let count: u64 = requests.iter().filter(|((_, found), _)| *found == reason).map(|(_, count)| count).sum();
        family.encode_family(&[("dependency", dependency)])?.encode_counter::<NoLabelSet, _, u64>(&count, None)?;
    }
    Ok(())
}

fn encode_latencies(encoder: &mut DescriptorEncoder<'_>, lanes: &[Arc<Counts>]) -> fmt::Result {
    let help = "From the request's headers to the head of its reply";
    let mut family = encoder.encode_descriptor("request_duration_seconds", help, None, MetricType::Histogram)?;
    for (i, operation) in Operation::ALL.iter().enumerate() {
        let of_lanes = || lanes.iter().filter_map(|lane| lane.done.get(i));
        let nanos: u64 = of_lanes().map(|latencies| latencies.nanos.load(Ordering::Relaxed)).sum();
        let buckets: Vec<(f64, u64)> = (0..BUCKETS)
            .map(|b| {
                let counts = of_lanes().filter_map(|latencies| latencies.buckets.get(b));
                (bound(b), counts.map(|count| count.load(Ordering::Relaxed)).sum())
            })
            .collect();
        let count: u64 = buckets.iter().map(|(_, count)| count).sum();
        if count > 0 {
            let sum = Duration::from_nanos(nanos).as_secs_f64();
            let labels = [("operation", operation.name())];
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
    }
    Ok(())
}

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let family = encoder.encode_descriptor(&self.name, &self.help, None, MetricType::Gauge)?;
        ConstGauge::new((self.read)()).encode(family)
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("name", &self.name).finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bounds double from 64 µs to 16.8 s; the last bucket has none.
const FIRST_BOUND_MICROS: u64 = 64;
const BUCKETS: usize = 20;
const DEPENDENCIES: [(&str, &str); 3] =
    [("boundary", "BOUNDARY_UNAVAILABLE"), ("storage", "STORAGE_UNAVAILABLE"), ("audit", "AUDIT_UNAVAILABLE")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        for (micros, bucket_of_it) in [(0, 0), (1, 0), (64, 0), (65, 1), (128, 1), (129, 2), (1_000_000, 14)] {
            let nanos = micros * 1000;
            assert_eq!(bucket(nanos), bucket_of_it, "{micros} µs");
            assert!(Duration::from_micros(micros).as_secs_f64() <= bound(bucket(nanos)));
        }
        assert_eq!(bucket(64_001), 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert!((bound(BUCKETS - 2) - 16.777_216).abs() < 1e-9);
        assert!(bound(BUCKETS - 1).is_infinite());
    }

    #[test]
    fn lanes_add_up() {
        let health = Health::new();
        let metrics = Metrics::new("9.9.9", &health);
        let (a, b) = (metrics.lane(), metrics.lane());
        a.succeeded(Operation::Encrypt, Duration::from_micros(50));
        b.succeeded(Operation::Encrypt, Duration::from_micros(100));
        b.failed(Operation::Encrypt, "BOUNDARY_UNAVAILABLE", Duration::from_secs(20));
        metrics.gauge("cache_entries", "Entries", || 7);
        health.serve();
        let text = metrics.render();
        for line in [
            "strongroom_build_info{version=\"9.9.9\"} 1",
            "strongroom_requests_total{operation=\"Encrypt\",outcome=\"OK\"} 2",
            "strongroom_requests_total{operation=\"Encrypt\",outcome=\"BOUNDARY_UNAVAILABLE\"} 1",
            "strongroom_dependency_failures_total{dependency=\"boundary\"} 1",
            "strongroom_dependency_failures_total{dependency=\"audit\"} 0",
            "strongroom_request_duration_seconds_count{operation=\"Encrypt\"} 3",
            "strongroom_request_duration_seconds_bucket{le=\"0.000064\",operation=\"Encrypt\"} 1",
            "strongroom_request_duration_seconds_bucket{le=\"0.000128\",operation=\"Encrypt\"} 2",
            "strongroom_request_duration_seconds_bucket{le=\"+Inf\",operation=\"Encrypt\"} 3",
            "strongroom_cache_entries 7",
            "strongroom_serving 1",
            "strongroom_boundary_available 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}

//! `sys/metrics`: what `/metrics` tells, for who may read it here.
//!
//! # Divergences
//!
//! - With `format=prometheus` it is OpenMetrics text, which Prometheus reads as well. As JSON each number stands among `Gauges`,
//!   or `Counters` where it only rises, with its labels; there are no `Points` and no `Samples`.

use crate::call::Verb;
use crate::error::VaultError;
use crate::reply::Reply;
use crate::scope::Scope;
use crate::sys::status::bare;
use crate::text::Text;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Metrics<'a> {
    timestamp: String,
    gauges: Vec<Gauge<'a>>,
    points: [(); 0],
    counters: Vec<Counter<'a>>,
    samples: [(); 0],
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Gauge<'a> {
    name: &'a str,
    value: f64,
    labels: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Counter<'a> {
    name: &'a str,
    count: f64,
    sum: f64,
    labels: BTreeMap<&'a str, &'a str>,
}

pub(super) fn handle(scope: &Scope<'_>) -> Result<Reply, VaultError> {
    if scope.call.verb != Verb::Read {
        return Err(VaultError::Unsupported);
    }
    let text = scope.vault.seams.telemetry.render();
    match scope.call.parameter("format") {
        Some("prometheus") => {
            Ok(Reply { bare: Some((200, Text::copy_from(&text))), media_type: OPEN_METRICS, ..Reply::default() })
        }
        None | Some("" | "json") => bare(200, &parsed(&text, crate::clock::rfc3339(scope.now()))),
        Some(_) => Err(VaultError::field("format", "`prometheus`, or nothing")),
    }
}

/// Each line is `name{label="value",…} number`; values of ours have neither commas nor quotes in them.
fn parsed(text: &str, timestamp: String) -> Metrics<'_> {
    let mut metrics = Metrics { timestamp, ..Metrics::default() };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Some(value) = value.parse::<f64>().ok().filter(|value| value.is_finite()) else { continue };
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let pairs = labels.trim_end_matches('}').split(',').filter_map(|pair| pair.split_once('='));
        let labels = pairs.map(|(label, value)| (label, value.trim_matches('"'))).collect();
        if ["_total", "_count", "_sum", "_bucket"].iter().any(|end| name.ends_with(end)) {
            metrics.counters.push(Counter { name, count: value, sum: value, labels });
        } else {
            metrics.gauges.push(Gauge { name, value, labels });
        }
    }
    metrics
}

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_series_is_a_gauge_or_a_counter_with_its_labels() {
        let text = "# HELP x y\nsr_serving 1\nsr_requests_total{operation=\"Encrypt\",outcome=\"OK\"} 2\nbad\nsr_nan NaN\n# EOF\n";
        let found = serde_json::to_value(parsed(text, "t".into())).unwrap();
        let expected = serde_json::json!({
            "Timestamp": "t",
            "Gauges": [{"Name": "sr_serving", "Value": 1.0, "Labels": {}}],
            "Points": [],
            "Counters": [{"Name": "sr_requests_total", "Count": 2.0, "Sum": 2.0,
                "Labels": {"operation": "Encrypt", "outcome": "OK"}}],
            "Samples": [],
        });
        assert_eq!(found, expected);
    }
}

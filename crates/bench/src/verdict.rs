//! What the figures say against the promises: reached or not, in a line each.

use crate::load::Shape;
use crate::report::{Figures, Report, Row};
use crate::stand::{JWT_STATELESS, JWT_STORED};
use crate::windows::{BARE, CROWD, FOR_RECEIPT, MULTIPLEXED, OWN, PLAIN, RAW, SIM, SINK, TREE_ROW, WIDE, batch_row};

/// Lines for one boundary.
pub(crate) fn lines(report: &Report, boundary: &str) -> Vec<String> {
    let mut out = vec![format!("Figures on {boundary}:")];
    let at = |subject: &str, shape: Shape| report.median(&Row::new(subject, shape));
    let Some(raw) = at(RAW, WIDE) else { return out };
    for (shape, goal) in [(WIDE, 0.50), (MULTIPLEXED, 0.70)] {
        let data_key = at(&format!("GenerateDataKey, {boundary}"), shape);
        let (Some(bare), Some(own), Some(data_key)) = (at(BARE, shape), at(OWN, shape), data_key) else { continue };
        out.push(judged(&format!("{shape}: our listener ÷ bare"), own.rate / bare.rate, 0.9));
        out.push(against(shape, goal, &bare, &raw, &data_key));
        let slowest = bare.p99_us.max(raw.p99_us) as f64;
        let times = data_key.p99_us as f64 / slowest;
        let mark = if times <= 3.0 { "reached" } else { "NOT reached" };
        out.push(format!(
            "  {shape}: p99 is {times:.2} of the larger of bare's and the raw commit's; at most 3: {mark}"
        ));
        if let Some(batch) = at(&batch_row(boundary), shape) {
            let what = format!("{shape}: keys/s in batches of 32 ÷ keys/s one by one");
            out.push(judged(&what, batch.rate / data_key.rate, 5.0));
        }
    }
    out
}

/// The vault's API, beside the empty RPC.
pub(crate) fn vault(report: &Report, boundary: &str) -> Vec<String> {
    let mut out = vec![format!("Figures of the vault on {boundary}, {WIDE}:")];
    let Some(bare) = report.median(&Row::new(BARE, WIDE)) else { return out };
    for (what, goal) in [
        ("KV v2 read", 0.25),
        ("KV v2 write", 0.15),
        ("token lookup-self", 0.25),
        ("transit datakey", 0.35),
        ("AppRole login, stateless token", 0.25),
        ("AppRole login, stored token", 0.06),
    ] {
        let Some(row) = report.median(&Row::new(format!("{what}, {boundary}"), WIDE)) else { continue };
        out.push(judged(&format!("{what} ÷ bare empty RPC"), row.rate / bare.rate, goal));
    }
    let raw = report.median(&Row::new(RAW, WIDE));
    let (Some(raw), Ok(verification_us)) = (raw, crate::jwt::verification_us()) else { return out };
    let parts = verification_us + bare.server_us + raw.server_us;
    for what in [JWT_STATELESS, JWT_STORED] {
        let Some(row) = report.median(&Row::new(format!("{what}, {boundary}"), WIDE)) else { continue };
        let times = row.server_us / parts;
        let mark = if times <= 3.0 { "reached" } else { "NOT reached" };
        out.push(format!(
            "  {what}: {:.0} us of CPU, {times:.2} times verification {verification_us:.0} + bare RPC {:.0} + raw commit {:.0}; at most 3: {mark}",
            row.server_us, bare.server_us, raw.server_us
        ));
    }
    out
}

/// The audit log alone, beside the raw commit.
pub(crate) fn sink(report: &Report) -> Vec<String> {
    let mut out = vec!["Figures of the audit log alone:".to_owned()];
    for shape in [WIDE, CROWD] {
        let at = |subject: &str| report.median(&Row::new(subject, shape));
        let (Some(raw), Some(sink)) = (at(RAW), at(SINK)) else { continue };
        out.push(judged(&format!("{shape}: audit log ÷ raw group commit"), sink.rate / raw.rate, 0.5));
        let times = (sink.p50_us as f64 - raw.p50_us as f64) / raw.p50_us as f64;
        let mark = if times <= 1.5 { "reached" } else { "NOT reached" };
        out.push(format!("  {shape}: it adds {times:.2} of raw's p50; at most 1.5: {mark}"));
    }
    out
}

/// What hashing, tiles and checkpoints cost, and a receipt on every call: beside the same log without its tree.
pub(crate) fn tree(report: &Report) -> Vec<String> {
    let mut out = vec![format!("Figures of the log's tree, {WIDE}:")];
    let at = |what: &str, where_: &str| report.median(&Row::new(format!("{what}, {where_}"), WIDE));
    let Some(plain) = at(TREE_ROW, PLAIN) else { return out };
    for (what, row, [cpu_max, rate_max]) in [
        ("hashing, tiles and checkpoints", at(TREE_ROW, SIM), [0.15, 0.10]),
        ("with a receipt on every call", at(FOR_RECEIPT, SIM), [0.20, 0.20]),
    ] {
        let Some(row) = row else { continue };
        out.push(at_most(&format!("{what}: more server CPU a call"), row.server_us / plain.server_us - 1.0, cpu_max));
        out.push(at_most(&format!("{what}: less throughput"), 1.0 - row.rate / plain.rate, rate_max));
    }
    out
}

fn at_most(what: &str, share: f64, most: f64) -> String {
    let mark = if share <= most { "reached" } else { "NOT reached" };
    format!("  {what}: {:.1} %, wanted at most {:.0} %: {mark}", share * 100.0, most * 100.0)
}

/// The ratio that is asked for; on a disk that binds, another one.
fn against(shape: Shape, goal: f64, bare: &Figures, raw: &Figures, data_key: &Figures) -> String {
    if raw.rate < 0.9 * bare.rate {
        let ratio = data_key.rate / raw.rate.min(bare.rate);
        let what =
            format!("{shape}: DISK-BOUND (raw commit {:.2} of bare): GenerateDataKey ÷ raw", raw.rate / bare.rate);
        judged(&what, ratio, 0.8)
    } else {
        judged(&format!("{shape}: GenerateDataKey ÷ bare empty RPC"), data_key.rate / bare.rate, goal)
    }
}

fn judged(what: &str, value: f64, goal: f64) -> String {
    let mark = if value >= goal { "reached" } else { "NOT reached" };
    format!("  {what}: {value:.2}, at least {goal}: {mark}")
}

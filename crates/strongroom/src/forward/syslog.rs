//! Syslog: RFC 5424 messages, one a line of the log.

use super::address::{Address, tls};
use super::{Forward, Line, Sent};
use crate::cli::values::date_text;
use crate::dial::{Stream, connect};
use anyhow::{Context as _, Result, ensure};
use audit::record::Record;
use audit::{Decision, Outcome};
use std::fmt::Write as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixDatagram;

pub(super) struct Syslog {
    address: Address,
    forward: Forward,
    header: Header,
    stream: Option<Box<dyn Stream>>,
    socket: Option<UnixDatagram>,
}

/// What every message has.
struct Header {
    host: String,
    pid: u32,
}

impl Syslog {
    pub(super) fn new(forward: &Forward) -> Result<Self> {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let header = Header { host: visible(&host, HOST_MAX), pid: std::process::id() };
        // what is not sound is told at the start
        tls(forward)?;
        Ok(Self { address: Address::parse(&forward.to)?, forward: forward.clone(), header, stream: None, socket: None })
    }

    /// Nobody answers on it, so what can be read is its end.
    pub(super) async fn stands(&mut self) -> Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let mut answer = [0; 256];
        loop {
            let read = std::pin::pin!(stream.read(&mut answer));
            match futures_util::future::FutureExt::now_or_never(read) {
                None => return Ok(()),
                Some(read) => ensure!(read? > 0, "the collector has closed the connection"),
            }
        }
    }

    pub(super) async fn send(&mut self, lines: &[Line]) -> Result<Sent> {
        match &self.address {
            Address::Unix(path) => {
                let socket = match &self.socket {
                    Some(socket) => socket,
                    None => {
                        let socket = UnixDatagram::unbound()?;
                        socket.connect(path).with_context(|| format!("cannot connect to {}", path.display()))?;
                        self.socket.insert(socket)
                    }
                };
                for line in lines {
                    let message = self.header.message(line);
                    socket.send(message.as_bytes()).await.context("the message was not taken")?;
                }
                Ok(Sent::Confirmed)
            }
            Address::Tcp { host, port, .. } => {
                let stream = match &mut self.stream {
                    Some(stream) => stream,
                    None => self.stream.insert(connect(host, *port, tls(&self.forward)?.as_ref()).await?),
                };
                let mut bytes = String::new();
                for line in lines {
                    let message = self.header.message(line);
                    // RFC 6587 §3.4.1, RFC 5425 §4.3: MSG-LEN SP SYSLOG-MSG
                    let _ = write!(bytes, "{} {message}", message.len());
                }
                stream.write_all(bytes.as_bytes()).await?;
                stream.flush().await?;
                Ok(Sent::Written)
            }
        }
    }
}

impl Header {
    /// RFC 5424 §6. The message is JSON in ASCII or UTF-8, without the mark that few receivers take off.
    fn message(&self, line: &Line) -> String {
        let record = line.entry.record();
        let priority = FACILITY * 8 + severity(&record);
        let (time, id) = (timestamp(record.time), visible(record.operation, MSGID_MAX));
        format!("<{priority}>1 {time} {} strongroom {} {id} - {}", self.host, self.pid, line.json)
    }
}

/// RFC 5424 §6.2.1, table 2.
pub(super) fn severity(record: &Record<'_>) -> u8 {
    match (record.decision, &record.outcome) {
        (Decision::Allowed, Outcome::Asked | Outcome::Done) => INFORMATIONAL,
        (Decision::Denied | Decision::NotReached, _) | (Decision::Allowed, Outcome::Failed(_)) => WARNING,
    }
}

fn timestamp(millis: u64) -> String {
    let seconds = i64::try_from(millis / 1000).unwrap_or(SECONDS_MAX).min(SECONDS_MAX);
    let nanos = i32::try_from(millis % 1000 * 1_000_000).unwrap_or(0);
    date_text(&prost_types::Timestamp { seconds, nanos })
}

/// PRINTUSASCII of a bounded length; `-` where there is nothing.
fn visible(text: &str, max: usize) -> String {
    let shown: String = text.chars().filter(char::is_ascii_graphic).take(max).collect();
    if shown.is_empty() { "-".to_owned() } else { shown }
}

/// Log audit, RFC 5424 §6.2.1, table 1.
const FACILITY: u8 = 13;
pub(super) const WARNING: u8 = 4;
const INFORMATIONAL: u8 = 6;
const HOST_MAX: usize = 255;
const MSGID_MAX: usize = 32;
/// 9999-12-31T23:59:59Z.
const SECONDS_MAX: i64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;
    use audit::Subject;
    use audit::record::{Entry, finish};
    use envelope::Timestamp;

    #[test]
    fn a_message_has_the_fields_of_rfc_5424_in_their_order() {
        let header = Header { host: "h".into(), pid: 7 };
        let message = |operation: &str, decision, outcome: Outcome| {
            let record = Record {
                decision,
                outcome,
                ..Record::new(Timestamp::from_unix_millis(1_800_000_000_123), "", operation, &Subject::System)
            };
            let entry = Entry::decode(&finish(&record.encode(), None).unwrap()).unwrap();
            header.message(&Line { index: 3, json: "{}".into(), entry })
        };
        let allowed = Decision::Allowed;
        assert_eq!(
            message("Decrypt", allowed, Outcome::Done),
            "<110>1 2027-01-15T08:00:00.123Z h strongroom 7 Decrypt - {}"
        );
        for (decision, outcome, priority) in [
            (allowed, Outcome::Asked, "<110>"),
            (allowed, Outcome::Failed("X".into()), "<108>"),
            (Decision::Denied, Outcome::Done, "<108>"),
        ] {
            assert!(message("A B", decision, outcome).starts_with(priority));
        }
        assert!(message("A B\n", allowed, Outcome::Done).ends_with(" AB - {}"));
        assert!(message(&"x".repeat(99), allowed, Outcome::Done).contains(&format!(" {} - ", "x".repeat(32))));
    }
}

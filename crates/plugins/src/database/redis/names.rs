//! The names of all users, one after the other: `ACL USERS` has no pages, and a million names are 60 MB.
//!
//! Always: read as they come, none kept: what is not read yet waits at the server, in its output buffer.

use super::link::{DEFAULT, Failed};
use redis::cmd;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use zeroize::Zeroizing;

/// What is left of an answer.
pub(super) struct Names<S> {
    stream: BufReader<S>,
    left: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Names<S> {
    /// As somebody, over a stream that nobody has used. In RESP 2, which every connection begins with.
    pub(super) async fn ask(stream: S, (username, password): (&str, &str)) -> Result<Self, Failed> {
        let mut names = Self { stream: BufReader::new(stream), left: 0 };
        if !password.is_empty() {
            let username = if username.is_empty() { DEFAULT } else { username };
            let login = Zeroizing::new(cmd("AUTH").arg(username).arg(password).get_packed_command());
            // what is said instead may repeat what was sent
            if names.answer(&login).await.map_err(lost)? != "+OK" {
                return Err(Failed::Lost("the login was refused".to_owned()));
            }
        }
        let count = names.answer(&cmd("ACL").arg("USERS").get_packed_command()).await.map_err(lost)?;
        if let Some(why) = count.strip_prefix('-') {
            return Err(Failed::Said(crate::database::said(why)));
        }
        names.left = number(&count, '*').map_err(lost)?;
        Ok(names)
    }

    /// The next of them, as many at most; fewer than that are the last.
    pub(super) async fn next(&mut self, most: usize) -> Result<Vec<String>, Failed> {
        let read = async {
            let mut names = Vec::new();
            while names.len() < most && self.left > 0 {
                names.push(self.name().await?);
                self.left -= 1;
            }
            Ok(names)
        };
        let read = tokio::time::timeout(READ_WITHIN, read).await;
        read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(lost)
    }

    /// The first line of what is said to a command.
    async fn answer(&mut self, command: &[u8]) -> io::Result<String> {
        self.stream.get_mut().write_all(command).await?;
        self.stream.get_mut().flush().await?;
        self.line().await
    }

    async fn name(&mut self) -> io::Result<String> {
        let length = number(&self.line().await?, '$')?;
        let mut name = Vec::new();
        (&mut self.stream).take(length.min(NAME_BYTES_MAX)).read_to_end(&mut name).await?;
        // not ours, however it goes on
        tokio::io::copy(&mut (&mut self.stream).take(length.saturating_sub(NAME_BYTES_MAX)), &mut tokio::io::sink())
            .await?;
        if self.line().await?.is_empty() { Ok(String::from_utf8_lossy(&name).into_owned()) } else { Err(malformed()) }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        (&mut self.stream).take(LINE_BYTES_MAX).read_line(&mut line).await?;
        line.strip_suffix("\r\n").map(str::to_owned).ok_or_else(malformed)
    }
}

fn number(line: &str, kind: char) -> io::Result<u64> {
    line.strip_prefix(kind).and_then(|count| count.parse().ok()).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, MALFORMED)
}

fn lost(error: io::Error) -> Failed {
    Failed::Lost(error.to_string())
}

const MALFORMED: &str = "an answer that is none";
/// Of errors, which are told of no further.
const LINE_BYTES_MAX: u64 = 1024;
/// More than any of ours has.
const NAME_BYTES_MAX: u64 = 512;
const READ_WITHIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: &[u8] = b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n";

    async fn read(answer: &str, most: usize) -> Result<Vec<Vec<String>>, ()> {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        theirs.shutdown().await.unwrap();
        let names = Names::ask(ours, ("u", "p")).await;
        let mut asked = [0; LOGIN.len()];
        theirs.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, LOGIN);
        let (mut names, mut pages) = (names.map_err(drop)?, Vec::new());
        loop {
            let page = names.next(most).await.map_err(drop)?;
            let is_last = page.len() < most;
            pages.push(page);
            if is_last {
                return Ok(pages);
            }
        }
    }

    #[tokio::test]
    async fn names_come_in_pages_and_what_is_cut_or_malformed_is_no_list() {
        let names = |count: usize| (0..count).map(|n| format!("$2\r\nn{n}\r\n")).collect::<String>();
        let all = |count: usize| format!("+OK\r\n*{count}\r\n{}", names(count));
        for (count, sizes) in [(0, vec![0]), (1, vec![1]), (3, vec![3, 0]), (7, vec![3, 3, 1])] {
            let pages = read(&all(count), 3).await.unwrap();
            assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes);
            assert!(pages.concat().iter().enumerate().all(|(n, name)| *name == format!("n{n}")));
        }
        let long = "x".repeat(1000);
        let pages = read(&format!("+OK\r\n*2\r\n$1000\r\n{long}\r\n$1\r\na\r\n"), 9).await.unwrap();
        assert_eq!(pages, [[long[..512].to_owned(), "a".to_owned()]]);
        for answer in [
            "",
            "+OK\r\n",
            "-WRONGPASS p\r\n",
            "+OK\r\n-NOPERM\r\n",
            "+OK\r\n*3\r\n$1\r\na\r\n",
            "+OK\r\n*2\r\n$1\r\na\r\n",
            "+OK\r\n*1\r\n$1\r\nab\r\n",
            "+OK\r\n*1\r\n$-1\r\n",
            "+OK\r\n*1\r\n:1\r\n",
            "+OK\r\n*x\r\n",
        ] {
            read(answer, 3).await.unwrap_err();
        }
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        theirs.write_all(b"-ERR unknown command 'AUTH', with args beginning with: 'u' 'p'\r\n").await.unwrap();
        let Err(Failed::Lost(said)) = Names::ask(ours, ("u", "p")).await else { panic!("it was let in") };
        assert_eq!(said, "the login was refused");
    }
}

//! Services that tell a machine who it is: plain HTTP, to addresses that do not leave the link.

use crate::{Error, SecretBytes};
use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::TcpStream;

pub(super) struct Service<'a> {
    pub(super) cloud: &'static str,
    /// `http://ADDRESS[:PORT]`.
    pub(super) endpoint: &'a str,
    /// By what the service is called, where that is not its address.
    pub(super) host: Option<&'static str>,
}

impl Service<'_> {
    pub(super) fn failed(&self, reason: impl Into<String>) -> Error {
        Error::Cloud { cloud: self.cloud, reason: format!("{}: {}", self.endpoint, reason.into()) }
    }

    pub(super) async fn get(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<SecretBytes, Error> {
        self.ask(Method::GET, path, headers).await
    }

    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<SecretBytes, Error> {
        let exchange = tokio::time::timeout(WITHIN, self.exchange(method, path, headers));
        exchange.await.unwrap_or_else(|_| Err(self.failed("no answer in time")))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<SecretBytes, Error> {
        let (address, port) = self.address()?;
        let malformed = || self.failed("no request can be made of this");
        let authority = self.endpoint.trim_start_matches("http://").trim_end_matches('/');
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(HOST, self.host.unwrap_or(authority)).header(USER_AGENT, "strongroom");
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| malformed())?;
            value.set_sensitive(true);
            request = request.header(HeaderName::from_static(name), value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| malformed())?;
        let stream = tokio::time::timeout(CONNECTED_WITHIN, TcpStream::connect((address, port))).await;
        let stream = stream.map_err(|_| self.failed("not reached in time"))?;
        let stream = stream.map_err(|error| self.failed(error.to_string()))?;
        let broke = |error: hyper::Error| self.failed(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
        // ends with the answer, or with its sender
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(broke)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body =
            crate::take_secret(body.map_err(|_| self.failed("the answer broke off, or is too long"))?.to_bytes());
        match status {
            StatusCode::OK => Ok(body),
            status => Err(self.failed(format!("it answered {status}"))),
        }
    }

    /// A literal address of this host or link: names could be anybody's.
    fn address(&self) -> Result<(IpAddr, u16), Error> {
        let refused = || self.failed("not http:// and an address of this machine or its link");
        let uri: Uri = self.endpoint.parse().map_err(|_| refused())?;
        let plain = uri.scheme_str() == Some("http") && uri.path() == "/" && uri.query().is_none();
        let address: IpAddr = uri.host().unwrap_or_default().trim_matches(['[', ']']).parse().map_err(|_| refused())?;
        let near = match address {
            IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
            // fd00:ec2::254, fd00:ec2::23
            IpAddr::V6(address) => address.is_loopback() || address.segments()[..2] == [0xfd00, 0x0ec2],
        };
        if plain && near { Ok((address, uri.port_u16().unwrap_or(80))) } else { Err(refused()) }
    }
}

const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
const WITHIN: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_near_by_are_asked() {
        for (endpoint, near) in [
            ("http://169.254.169.254", true),
            ("http://169.254.170.23:80/", true),
            ("http://127.0.0.1:4000", true),
            ("http://[fd00:ec2::254]", true),
            ("http://[::1]:80", true),
            ("http://10.0.0.1", false),
            ("http://metadata.evil.example", false),
            ("http://localhost", false),
            ("https://169.254.169.254", false),
            ("http://169.254.169.254/latest", false),
            ("http://[2001:db8::1]", false),
            ("", false),
        ] {
            let service = Service { cloud: "AWS", endpoint, host: None };
            assert_eq!(service.address().is_ok(), near, "{endpoint}");
        }
    }
}

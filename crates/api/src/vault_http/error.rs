//! An answer as HTTP.

use crate::head::Reply;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, StatusCode};
use vault::Answer;

/// Clients compare the content type letter by letter.
pub(super) fn reply(answer: Answer) -> Reply {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let has_body = answer.body.is_some();
    let body = answer.body.map_or_else(tonic::body::Body::empty, |text| {
        tonic::body::Body::new(http_body_util::Full::new(text.into_bytes()))
    });
    let mut reply = Reply::new(body);
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    if has_body {
        let kind = if answer.media_type.is_empty() { "application/json" } else { answer.media_type };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}

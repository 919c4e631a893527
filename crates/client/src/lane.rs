//! The way to a server: a connection that is made anew when it breaks, and another one where the client's certificate was
//! replaced.
//!
//! Always: what was begun on a connection ends there.

use crate::connect::{Route, Shown};
use crate::stamp::{Followed, LOOKS_EVERY};
use crate::{ClientCertificate, Error};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

/// Which certificate connections show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shows {
    /// The first one to the end: for tokens that count beside it alone.
    First,
    /// What the files hold.
    Newest,
}

/// What calls are made on. Clones share the connection.
pub struct Lane {
    way: Way,
    ready: Option<Channel>,
}

#[derive(Clone)]
enum Way {
    Fixed(Channel),
    Following(Arc<Mutex<Following>>),
}

struct Following {
    route: Route,
    shown: Arc<Mutex<Shown>>,
    files: Followed,
    looked: Instant,
    channel: Channel,
}

impl Lane {
    /// Connects; with what is shown.
    pub(crate) async fn open(route: Route, shows: Shows) -> Result<(Self, Option<[u8; 32]>), Error> {
        let files = route.certificate.as_ref().map(|ClientCertificate { chain, key }| Followed::new([chain, key]));
        let shown = route.shown()?;
        let thumbprint = shown.thumbprint;
        let way = match files.filter(|_| shows == Shows::Newest) {
            None => Way::Fixed(route.connect(move || shown.clone()).await?),
            Some(files) => {
                let shown = Arc::new(Mutex::new(shown));
                let channel = route.connect(newest(route.clone(), Arc::clone(&shown))).await?;
                Way::Following(Arc::new(Mutex::new(Following { route, shown, files, looked: Instant::now(), channel })))
            }
        };
        Ok((Self { way, ready: None }, thumbprint))
    }
}

impl Way {
    fn channel(&self) -> Channel {
        match self {
            Self::Fixed(channel) => channel.clone(),
            Self::Following(following) => following.lock().unwrap_or_else(PoisonError::into_inner).channel(),
        }
    }
}

impl Following {
    fn channel(&mut self) -> Channel {
        if self.looked.elapsed() >= LOOKS_EVERY {
            self.looked = Instant::now();
            // what is not sound yet is tried again; until then the old one goes on
            let _looked = self.files.look(|| {
                let shown = self.route.shown()?;
                let channel = self.route.connect_lazily(newest(self.route.clone(), Arc::clone(&self.shown)))?;
                *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown;
                self.channel = channel;
                Ok::<_, Error>(())
            });
        }
        self.channel.clone()
    }
}

/// As the files are when a connection is made; as they were last where they are not sound.
fn newest(route: Route, last: Arc<Mutex<Shown>>) -> impl FnMut() -> Shown + Send + 'static {
    move || {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(shown) = route.shown() {
            *last = shown;
        }
        last.clone()
    }
}

impl Clone for Lane {
    fn clone(&self) -> Self {
        Self { way: self.way.clone(), ready: None }
    }
}

impl std::fmt::Debug for Lane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lane")
    }
}

impl Service<http::Request<Body>> for Lane {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        let way = &self.way;
        self.ready.get_or_insert_with(|| way.channel()).poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let mut ready = self.ready.take().unwrap_or_else(|| self.way.channel());
        ready.call(request)
    }
}

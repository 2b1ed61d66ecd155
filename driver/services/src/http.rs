//! Files over HTTP/1.1, for update bundles: what a machine of the lab downloads from its network.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::header::{HeaderMap, HeaderName, RANGE, USER_AGENT};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower_http::services::fs::ServeFileSystemResponseBody as Body;
use tower_http::services::{ServeDir, ServeFile};

use crate::error::Error;
use crate::shared::{Shared, Task};
use crate::tcp::{TcpListener, TcpStream};

/// How many clients are served at once; more wait.
const CLIENTS: usize = 256;

/// How many requests are remembered.
const REQUESTS: usize = 4096;

/// How many bytes are read from a file at once.
const CHUNK: usize = 64 << 10;

/// What a [`HttpServer`] gives out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpFiles {
    /// The files of a directory and those below it, as they are when they are asked for. A symbolic link is followed,
    /// wherever it leads; directories themselves are not listed.
    Directory(PathBuf),
    /// Files by the path of their URL, such as `/bundle.raucb`, as they are when they are asked for.
    Files(BTreeMap<String, PathBuf>),
}

impl HttpFiles {
    fn check(&self, host: &str) -> Result<(), Error> {
        let missing =
            |path: &PathBuf, source| Error::NoFile { host: host.to_owned(), path: path.clone(), source };
        match self {
            HttpFiles::Directory(path) => {
                let metadata = path.metadata().map_err(|source| missing(path, source))?;
                if !metadata.is_dir() {
                    return Err(missing(path, io::ErrorKind::NotADirectory.into()));
                }
            }
            HttpFiles::Files(files) => {
                for (url, path) in files {
                    if !url.starts_with('/') || url.parse::<hyper::Uri>().is_err() {
                        return Err(Error::UrlPath { host: host.to_owned(), path: url.clone() });
                    }
                    let metadata = path.metadata().map_err(|source| missing(path, source))?;
                    if !metadata.is_file() {
                        return Err(missing(path, io::Error::other("it is not a file")));
                    }
                }
            }
        }
        Ok(())
    }

    async fn answer<B: Send + 'static>(&self, request: Request<B>) -> io::Result<Response<Body>> {
        match self {
            HttpFiles::Directory(path) => {
                let serve = ServeDir::new(path).append_index_html_on_directories(false);
                serve.with_buf_chunk_size(CHUNK).try_call(request).await
            }
            HttpFiles::Files(files) => match files.get(request.uri().path()) {
                Some(path) => ServeFile::new(path).with_buf_chunk_size(CHUNK).try_call(request).await,
                None => Ok(status(StatusCode::NOT_FOUND)),
            },
        }
    }
}

/// An answer without a body.
fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::<Body>::default();
    *response.status_mut() = status;
    response
}

/// What a client asked for, and how the server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// The client's address and port.
    pub client: SocketAddr,
    /// The method, such as `GET`.
    pub method: String,
    /// The URL's path and query as they came.
    pub path: String,
    /// The part that was asked for (`Range`, RFC 9110, 14.2), as it came.
    pub range: Option<String>,
    /// What the client calls itself (`User-Agent`).
    pub user_agent: Option<String>,
    /// The status of the answer, such as 200, or 206 for a part.
    pub status: u16,
}

/// A file server on a [`crate::Host`], until this is dropped; then its connections end too.
///
/// It answers GET and HEAD, whole or in a range of bytes, with the length and the time of last change, and is not
/// modified since that time if the client asks so. Another method gets 405, and what is not there 404.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    requests: Requests,
    _task: Task,
}

#[derive(Clone, Debug, Default)]
struct Requests(Arc<Mutex<VecDeque<HttpRequest>>>);

impl Requests {
    fn lock(&self) -> MutexGuard<'_, VecDeque<HttpRequest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpServer {
    pub(crate) fn start(
        shared: &Shared,
        listener: TcpListener,
        files: HttpFiles,
    ) -> Result<HttpServer, Error> {
        files.check(shared.name())?;
        let address = listener.local_addr();
        let requests = Requests::default();
        let server = serve(listener, Arc::new(files), requests.clone());
        let task = shared.spawn("serve files over HTTP", || Ok(server))?;
        tracing::info!(host = shared.name(), %address, "HTTP");
        Ok(HttpServer { address, requests, _task: task })
    }

    /// The address that clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path that begins with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The latest 4096 requests that were answered, oldest first. A request is among them once its answer has begun.
    pub fn requests(&self) -> Vec<HttpRequest> {
        self.requests.lock().iter().cloned().collect()
    }
}

async fn serve(listener: TcpListener, files: Arc<HttpFiles>, requests: Requests) {
    let room = Arc::new(Semaphore::new(CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        // Neither is ever closed before the host ends.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, client)) = listener.accept().await else { return };
        let (files, requests) = (Arc::clone(&files), requests.clone());
        clients.spawn(async move {
            serve_client(stream, client, &files, &requests).await;
            drop(place);
        });
        while clients.try_join_next().is_some() {}
    }
}

async fn serve_client(stream: TcpStream, client: SocketAddr, files: &HttpFiles, requests: &Requests) {
    let answer =
        service_fn(async |request| Ok::<_, Infallible>(answer(request, client, files, requests).await));
    let mut server = hyper::server::conn::http1::Builder::new();
    // A client may end its direction once it has asked.
    server.timer(TokioTimer::new()).half_close(true);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!(%client, %error, "HTTP client");
    }
}

async fn answer<B: Send + 'static>(
    request: Request<B>,
    client: SocketAddr,
    files: &HttpFiles,
    requests: &Requests,
) -> Response<Body> {
    let header = |headers: &HeaderMap, name: HeaderName| {
        headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let headers = request.headers();
    let mut record = HttpRequest {
        client,
        method: request.method().to_string(),
        path: request.uri().path_and_query().map(ToString::to_string).unwrap_or_default(),
        range: header(headers, RANGE),
        user_agent: header(headers, USER_AGENT),
        status: 0,
    };
    let response = files.answer(request).await.unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => status(StatusCode::NOT_FOUND),
        _ => {
            tracing::warn!(%client, path = record.path, %error, "HTTP");
            status(StatusCode::INTERNAL_SERVER_ERROR)
        }
    });
    record.status = response.status().as_u16();
    tracing::debug!(?record, "HTTP");
    let mut requests = requests.lock();
    if requests.len() == REQUESTS {
        requests.pop_front();
    }
    requests.push_back(record);
    response
}

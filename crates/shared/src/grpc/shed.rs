//! Turns calls away while a port has as many at work as it may, with a hint when to come again.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tokio::sync::Semaphore;
use tonic::{Code, Status, body::Body};
use tonic_types::{ErrorDetails, StatusExt as _};
use tower::{Layer, Service};

use super::allow::HEALTH;

/// When a call that was turned away may come again: most calls take a fraction of this.
const AGAIN: Duration = Duration::from_secs(1);

/// Counts the calls at work on one port, from the request until the answer begins.
#[derive(Clone, Debug)]
pub(super) struct ShedLayer(Arc<Semaphore>);

impl ShedLayer {
    /// With so many calls at once, whatever their connections.
    pub fn new(calls_at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(calls_at_once.min(Semaphore::MAX_PERMITS))))
    }
}

impl<S> Layer<S> for ShedLayer {
    type Service = Shed<S>;
    fn layer(&self, inner: S) -> Shed<S> {
        Shed { inner, room: Arc::clone(&self.0) }
    }
}

/// A service behind a [`ShedLayer`].
#[derive(Clone, Debug)]
pub(super) struct Shed<S> {
    inner: S,
    room: Arc<Semaphore>,
}

impl<S, R> Service<Request<R>> for Shed<S>
where
    S: Service<Request<R>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        // A busy service is not a sick one: whoever asks after its health must hear so.
        if request.uri().path().trim_start_matches('/').starts_with(HEALTH) {
            return Box::pin(self.inner.call(request));
        }
        let Ok(place) = Arc::clone(&self.room).try_acquire_owned() else {
            metrics::counter!("parapet_grpc_calls_shed_total").increment(1);
            let status = Status::with_error_details(
                Code::ResourceExhausted,
                "too many calls are at work here; nothing was done, come again",
                ErrorDetails::with_retry_info(Some(AGAIN)),
            );
            return Box::pin(std::future::ready(Ok(status.into_http())));
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(place);
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;
    use tower::{ServiceExt as _, service_fn};

    use super::*;

    fn request(path: &str) -> Request<Body> {
        Request::builder().uri(path).body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn what_a_port_cannot_take_on_is_turned_away_with_a_hint_and_health_is_told() {
        let (open, gate) = oneshot::channel::<()>();
        let gate = futures::FutureExt::shared(gate);
        let slow = service_fn(move |request: Request<Body>| {
            let gate = gate.clone();
            async move {
                if request.uri().path() == "/slow" {
                    gate.await.ok();
                }
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        });
        let port = ShedLayer::new(1).layer(slow);
        let first = tokio::spawn(port.clone().oneshot(request("/slow")));
        while port.room.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let refused = port.clone().oneshot(request("/fast")).await.unwrap();
        let status = Status::from_header_map(refused.headers()).unwrap();
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.get_details_retry_info().and_then(|info| info.retry_delay), Some(AGAIN));
        let health = port.clone().oneshot(request("/grpc.health.v1.Health/Check")).await.unwrap();
        assert!(Status::from_header_map(health.headers()).is_none());
        open.send(()).unwrap();
        first.await.unwrap().unwrap();
        let taken = port.clone().oneshot(request("/fast")).await.unwrap();
        assert!(Status::from_header_map(taken.headers()).is_none());
    }
}

//! Who may come in: tokens, their scopes, and how often. Which scope an operation takes stands in the document, and what
//! does not stand there is not served.
//!
//! Rates are counted in each process by itself: several replicas together let through several times as much.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use secrecy::ExposeSecret as _;
use subtle::ConstantTimeEq as _;
use tracing::warn;

use super::conduct::{ClientAddress, RequestId};
use super::problem::ApiError;
use crate::admin::{Caller, Scope, tokens};
use crate::app::App;
use crate::backup::held;

/// Wrong tokens that an address may try one after the other.
const WRONG: NonZeroU32 = NonZeroU32::new(5).expect("not zero");
/// How long it waits for each further one.
const PENALTY: Duration = Duration::from_secs(30);
/// Keys that one [`Rate`] remembers at most.
const REMEMBERED: usize = 10_000;
/// How often those that would be let through again are forgotten, where there are too many.
const SWEPT: Duration = Duration::from_secs(1);

/// The middleware's state.
#[derive(Clone)]
pub(super) struct Guard(Arc<Inner>);

struct Inner {
    app: App,
    scopes: HashMap<(Method, String), Scope>,
    by_token: Rate<i64>,
    /// Requests without a good token.
    nameless: Rate<IpAddr>,
    /// Those of them that had a wrong one.
    wrong: Rate<IpAddr>,
}

impl Guard {
    /// `scopes`: what each operation takes, by method and path as routed.
    pub(super) fn new(app: App, scopes: HashMap<(Method, String), Scope>) -> Self {
        let quota = Quota::per_minute(app.config.admin_rate_per_minute);
        let wrong = Quota::with_period(PENALTY).unwrap_or(quota).allow_burst(WRONG);
        let (by_token, nameless, wrong) = (Rate::new(quota), Rate::new(quota), Rate::new(wrong));
        Self(Arc::new(Inner { app, scopes, by_token, nameless, wrong }))
    }

    /// Lets good tokens of the operation's scope through, as a [`Caller`].
    pub(super) async fn check(
        State(guard): State<Self>,
        matched: MatchedPath,
        request: Request,
        next: Next,
    ) -> Result<Response, ApiError> {
        // HEAD is GET without the body.
        let (mut parts, body) = request.into_parts();
        let method = if parts.method == Method::HEAD { Method::GET } else { parts.method.clone() };
        let Some(needed) = guard.0.scopes.get(&(method, matched.as_str().to_owned())).copied() else {
            return Ok(guard.not_allowed(matched.as_str()));
        };
        let caller = guard.caller(&parts).await?;
        if caller.scope < needed {
            return Err(ApiError::Forbidden(needed.as_str(), caller.scope.as_str()));
        }
        guard.refuse_while_held(&parts.method, matched.as_str()).await?;
        tracing::Span::current().record("caller", caller.name.as_str());
        parts.extensions.insert(caller);
        Ok(next.run(Request::from_parts(parts, body)).await)
    }

    /// While the installation is held after a restore, it is only looked at: agents may be another's by now. Tokens can be made
    /// and revoked, and it can be let go on.
    async fn refuse_while_held(&self, method: &Method, path: &str) -> Result<(), ApiError> {
        if method.is_safe() || path.ends_with("/reconcile/run") || path.contains("/tokens") {
            return Ok(());
        }
        match held::state(&mut *self.0.app.db.acquire().await?).await? {
            None => Ok(()),
            Some(_) => Err(ApiError::Conflict(
                "The installation was restored from a backup and is held: nothing is changed until POST /reconcile/run is told to \
                 confirm."
                    .into(),
            )),
        }
    }

    /// Names the methods that there are, as RFC 9110 wants it.
    fn not_allowed(&self, path: &str) -> Response {
        let methods = self.0.scopes.keys().filter(|(_, known)| known == path);
        let mut methods: Vec<&str> = methods.map(|(method, _)| method.as_str()).collect();
        if methods.contains(&"GET") {
            methods.push("HEAD");
        }
        methods.sort_unstable();
        let mut response = ApiError::MethodNotAllowed.into_response();
        // silent-ok: names of methods are visible ASCII
        if let Ok(methods) = HeaderValue::from_str(&methods.join(", ")) {
            response.headers_mut().insert(header::ALLOW, methods);
        }
        response
    }

    async fn caller(&self, request: &Parts) -> Result<Caller, ApiError> {
        let inner = &*self.0;
        let address = request.extensions.get::<ClientAddress>().map(|address| address.0);
        let given = bearer(request);
        // The token comes first: whoever has a good one is let in whatever others at the same address (a proxy's, a
        // company's) did. There is nothing to guess: tokens are random, ADMIN_TOKEN too if it was made as the docs say.
        let Some((name, token_id, scope)) = self.known(given).await? else {
            return Err(self.failed(address, given.is_some()));
        };
        inner.by_token.within(&token_id.unwrap_or_default())?;
        let request_id = request.extensions.get::<RequestId>().map(|id| id.0.clone());
        Ok(Caller { name, token_id, scope, address, request_id })
    }

    /// Whose token this is (name, id, scope), if it is a good one.
    async fn known(&self, given: Option<&str>) -> Result<Option<(String, Option<i64>, Scope)>, ApiError> {
        let (app, Some(given)) = (&self.0.app, given) else { return Ok(None) };
        let bootstrap = app.config.admin_token.as_ref();
        if bootstrap.is_some_and(|own| own.expose_secret().as_bytes().ct_eq(given.as_bytes()).into()) {
            return Ok(Some(("ADMIN_TOKEN".into(), None, Scope::Admin)));
        }
        // What cannot be one costs no query.
        if !tokens::is_plausible(given) {
            return Ok(None);
        }
        let token = tokens::find(&mut *app.db.acquire().await?, given).await?;
        Ok(token.map(|token| (token.to_string(), Some(token.id), token.scope)))
    }

    /// What is said to who has no good token: no, or first to wait.
    fn failed(&self, address: Option<IpAddr>, had_token: bool) -> ApiError {
        let Some(key) = address.map(network) else { return ApiError::Unauthorised };
        let within = self.0.nameless.within(&key);
        let within = within.and_then(|()| if had_token { self.0.wrong.within(&key) } else { Ok(()) });
        match within {
            Err(wait) => wait,
            Ok(()) => {
                // As often as the rate lets through; it is what a long attack looks like.
                if had_token {
                    warn!(address = %key, "a wrong token of the API");
                }
                ApiError::Unauthorised
            }
        }
    }
}

/// How often something is allowed, for each key by itself.
struct Rate<K: Clone + Eq + Hash> {
    limiter: DefaultKeyedRateLimiter<K>,
    swept: Mutex<Option<Instant>>,
}

impl<K: Clone + Eq + Hash> Rate<K> {
    fn new(quota: Quota) -> Self {
        Self { limiter: RateLimiter::keyed(quota), swept: Mutex::default() }
    }

    /// Counts one more.
    fn within(&self, key: &K) -> Result<(), ApiError> {
        if self.is_full() {
            return Err(ApiError::TooManyRequests(PENALTY.as_secs()));
        }
        let now = DefaultClock::default().now();
        self.limiter.check_key(key).map_err(|until| ApiError::TooManyRequests(until.wait_time_from(now).as_secs() + 1))
    }

    /// Whether so many keys are in use that there is no room for others.
    fn is_full(&self) -> bool {
        if self.limiter.len() < REMEMBERED {
            return false;
        }
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.is_none_or(|at| at.elapsed() >= SWEPT) {
            self.limiter.retain_recent();
            *swept = Some(Instant::now());
        }
        self.limiter.len() >= REMEMBERED
    }
}

/// What counts as one address: of IPv6 the network of a customer, which has more addresses than anybody could remember.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
        address => address,
    }
}

fn bearer(request: &Parts) -> Option<&str> {
    let value = request.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or(ApiError::Unauthorised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_keys_are_remembered_than_there_is_room_for() {
        let rate = Rate::new(Quota::with_period(PENALTY).unwrap().allow_burst(WRONG));
        for key in 0..2 * REMEMBERED {
            assert_eq!(rate.within(&key).is_ok(), key < REMEMBERED);
        }
        assert_eq!(rate.limiter.len(), REMEMBERED);
    }

    #[test]
    fn five_at_once_are_let_through_and_then_one_waits() {
        let rate = Rate::new(Quota::with_period(PENALTY).unwrap().allow_burst(WRONG));
        let tried: Vec<_> = (0..7).map(|_| rate.within(&1).is_ok()).collect();
        assert_eq!(tried, [true, true, true, true, true, false, false]);
        assert!(rate.within(&2).is_ok());
        assert!(matches!(rate.within(&1), Err(ApiError::TooManyRequests(1..=31))));
    }

    #[test]
    fn a_network_of_a_customer_is_one_address() {
        let key = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8::1:2:3"), key("2001:db8::9"));
        assert_eq!(key("::ffff:192.0.2.7"), "192.0.2.7");
    }
}

//! Reading the web without becoming a way into the networks that this machine stands in.
//!
//! The process that fetches holds keys and stands where strangers do not: what a page or a visitor names may be this
//! machine, its neighbours or a cloud's metadata service. So [`guard`] says which addresses may be visited, [`resolver`]
//! connects only to addresses it has checked itself, and [`fetch`] follows redirects on its own, checking each. What
//! comes back is read by parsers whose time and memory grow with the bytes and nothing else ([`html`], [`json`]).

pub mod body;
pub mod brave;
pub mod fetch;
pub mod guard;
pub mod html;
pub mod json;
pub mod resolver;

pub use brave::{Brave, SearchError, SearchResult};
pub use fetch::{FetchError, Fetcher, Limits, Page};
pub use guard::{Policy, Refusal};
pub use resolver::{Dns, DnsError};

//! Operations: command, decision, application. One file each, small kin together.

pub mod alias;
pub mod create_key;
pub mod decrypt;
pub mod deletion;
pub mod describe_key;
pub mod encrypt;
pub mod erase;
pub mod generate_data_key;
pub mod grant;
pub mod mac;
pub mod random;
pub mod re_encrypt;
pub mod rotate;
pub mod sign;
pub mod state;
pub mod version;

/// A page of a listing, asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PageRequest {
    /// 0: the listing's default.
    pub limit: u32,
    /// `next_marker` of the page before; empty for the first.
    pub marker: String,
}

/// A page of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    /// Where the next page begins; `None` on the last.
    pub next_marker: Option<String>,
}

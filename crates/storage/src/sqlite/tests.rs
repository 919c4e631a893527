use super::*;
use crate::contract::{self, Durability};

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    contract::judge(|folder| Arc::new(Sqlite::open(folder).unwrap()), Durability::Durable).await;
}

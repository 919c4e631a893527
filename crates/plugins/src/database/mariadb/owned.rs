//! What a user leaves: tables are nobody's, but views, routines, triggers and events run as who defined them.
//!
//! Always: no other user becomes the definer: what stays, where the role says so, is defined by nobody, and runs as nobody.

use super::{Outcome, run, sql};
use mysql_async::Conn;
use mysql_async::prelude::Queryable as _;

/// Drops what the account has defined, as far as we see it.
pub(super) async fn drop_all(conn: &mut Conn, name: &str, host: &str) -> Outcome<()> {
    for (kind, schema, object) in defined(conn, name, host).await? {
        let (schema, object) = (sql::ident(&schema), sql::ident(&object));
        run(conn, &format!("DROP {kind} IF EXISTS {schema}.{object}")).await?;
    }
    Ok(())
}

/// Kind, schema and name of each.
async fn defined(conn: &mut Conn, name: &str, host: &str) -> Outcome<Vec<(String, String, String)>> {
    let definer = sql::literal(&format!("{name}@{host}"));
    let query = format!(
        "SELECT 'VIEW', TABLE_SCHEMA, TABLE_NAME FROM information_schema.VIEWS WHERE DEFINER = {definer} UNION ALL \
         SELECT ROUTINE_TYPE, ROUTINE_SCHEMA, ROUTINE_NAME FROM information_schema.ROUTINES WHERE DEFINER = {definer} \
         UNION ALL SELECT 'TRIGGER', TRIGGER_SCHEMA, TRIGGER_NAME FROM information_schema.TRIGGERS \
         WHERE DEFINER = {definer} UNION ALL \
         SELECT 'EVENT', EVENT_SCHEMA, EVENT_NAME FROM information_schema.EVENTS WHERE DEFINER = {definer}"
    );
    conn.query(query).await.map_err(|error| super::failed(&error))
}

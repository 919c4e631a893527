//! The schema: its tables and functions, made by the first server, and its format.
//!
//! Each statement below is one transaction of its own, in one round trip. All that writes takes the one row of `head` first
//! and holds it until it is visible to everybody: so revisions are in commit order, and whoever sees revision r sees all up
//! to r (a snapshot that sees a commit was taken after that commit, which began after the one before had ended).
//!
//! Names of functions end in a number: a later form has another, so that two versions of this program can share a database.

use super::connect::{Session, storage_error};
use crate::StorageError;

/// The format that this version writes: `head.format`.
pub(super) const FORMAT: i32 = 1;

/// Makes what is missing, under a lock: two servers may start at one moment.
pub(super) async fn make(session: &mut Session, schema: &str, lock: i64) -> Result<(), StorageError> {
    let made = async {
        let all = session.client.transaction().await?;
        // migrations wait for each other, not for the timeout of a single commit
        all.batch_execute("SET LOCAL statement_timeout = '30s'; SET LOCAL lock_timeout = '30s'").await?;
        all.execute("SELECT pg_advisory_xact_lock($1)", &[&lock]).await?;
        let found = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1),
             (SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = $1),
             to_regclass(quote_ident($1) || '.head') IS NOT NULL,
             EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = $1 AND relkind = 'r'
               AND relpersistence <> 'p')";
        let row = all.query_one(found, &[&schema]).await?;
        let (exists, relations, ours): (bool, i64, bool) = (row.get(0), row.get(1), row.get(2));
        if row.get(3) {
            return Ok(Found::Unlogged);
        }
        if ours {
            let format = all.query_one("SELECT format FROM head", &[]).await?.get(0);
            return Ok(if format == FORMAT { Found::Ours } else { Found::Format(format) });
        }
        if relations > 0 {
            return Ok(Found::Foreign);
        }
        if !exists {
            all.batch_execute(&format!("CREATE SCHEMA {}", super::connect::quoted(schema))).await?;
        }
        all.batch_execute(TABLES).await?;
        all.batch_execute(COMMIT).await?;
        all.batch_execute(CLAIM).await?;
        all.batch_execute(TRIM).await?;
        all.execute("INSERT INTO head VALUES (1, $1, 0, 0)", &[&FORMAT]).await?;
        all.commit().await?;
        Ok(Found::Ours)
    };
    match made.await.map_err(|error: tokio_postgres::Error| storage_error(&error))? {
        Found::Ours => Ok(()),
        Found::Unlogged => Err(StorageError::Damaged("a table of the store is unlogged: a crash would empty it")),
        Found::Foreign => Err(StorageError::Damaged("the schema is not one of this store")),
        Found::Format(found) => {
            let known = FORMAT.unsigned_abs();
            Err(StorageError::Format { found: u32::try_from(found).unwrap_or(u32::MAX), known })
        }
    }
}

enum Found {
    Ours,
    Foreign,
    Unlogged,
    Format(i32),
}

const TABLES: &str = "
CREATE TABLE head (one int PRIMARY KEY CHECK (one = 1), format int NOT NULL, rev bigint NOT NULL, floor bigint NOT NULL)
  WITH (fillfactor = 10);
-- hidden: claimed until then, Unix milliseconds
CREATE TABLE kv (k bytea PRIMARY KEY, rev bigint NOT NULL, v bytea NOT NULL, hidden bigint) WITH (fillfactor = 90);
-- values are sealed: compressing them is work for nothing
ALTER TABLE kv ALTER COLUMN v SET STORAGE EXTERNAL;
-- what each revision changed, and the id of its batch; gone up to head.floor
CREATE TABLE log (rev bigint PRIMARY KEY, id bytea UNIQUE, paths bytea[] NOT NULL);
-- where the store stood, noted now and then while a node runs
CREATE TABLE marks (node text, tick bigint, rev bigint NOT NULL, PRIMARY KEY (node, tick));
";

/// A group of batches. Those of one wave touch nothing that another of it writes: each step is one statement for all of
/// them. `wb`, `wk`, `wv`, `wl` are the writes: batch, path, value (NULL deletes), and whether it is the batch's last of the
/// path. `cb`, `ck`, `cr` are the conditions: batch, path, revision (NULL: absent).
const COMMIT: &str = "
CREATE FUNCTION commit_1(
  ids bytea[], waves int[], cb int[], ck bytea[], cr bigint[], wb int[], wk bytea[], wv bytea[], wl bool[],
  OUT base bigint, OUT revs bigint[], OUT bad int[]) LANGUAGE plpgsql AS $$
DECLARE
  newest bigint;
  fresh bigint[];
  batches int := cardinality(ids);
  found_batch int;
  found_value bigint;
BEGIN
  SELECT h.rev INTO STRICT base FROM head h FOR UPDATE;
  newest := base;
  revs := array_fill(NULL::bigint, ARRAY[batches]);
  fresh := revs;
  bad := array_fill(NULL::int, ARRAY[batches]);
  FOR found_batch, found_value IN
    SELECT i.b, l.rev FROM unnest(ids) WITH ORDINALITY i(id, b) JOIN log l ON l.id = i.id
  LOOP
    revs[found_batch] := found_value;
  END LOOP;
  FOR wave IN 1..waves[batches] LOOP
    IF cardinality(cb) > 0 THEN
      FOR found_batch, found_value IN
        SELECT c.b, min(c.n) FROM unnest(cb, ck, cr) WITH ORDINALITY c(b, k, r, n) LEFT JOIN kv e ON e.k = c.k
        WHERE waves[c.b] = wave AND revs[c.b] IS NULL AND e.rev IS DISTINCT FROM c.r GROUP BY c.b
      LOOP
        bad[found_batch] := found_value;
      END LOOP;
    END IF;
    FOR b IN 1..batches LOOP
      IF waves[b] = wave AND revs[b] IS NULL AND bad[b] IS NULL THEN
        newest := newest + 1;
        revs[b] := newest;
        fresh[b] := newest;
      END IF;
    END LOOP;
    INSERT INTO kv AS e (k, rev, v) SELECT w.k, fresh[w.b], w.v FROM unnest(wb, wk, wv, wl) w(b, k, v, l)
      WHERE waves[w.b] = wave AND fresh[w.b] IS NOT NULL AND w.l AND w.v IS NOT NULL
      ON CONFLICT (k) DO UPDATE SET rev = excluded.rev, v = excluded.v, hidden = NULL;
    DELETE FROM kv e USING unnest(wb, wk, wv, wl) w(b, k, v, l)
      WHERE e.k = w.k AND waves[w.b] = wave AND fresh[w.b] IS NOT NULL AND w.l AND w.v IS NULL;
  END LOOP;
  IF newest > base THEN
    INSERT INTO log (rev, id, paths)
      SELECT fresh[i.b], i.id, coalesce(p.paths, '{}') FROM unnest(ids) WITH ORDINALITY i(id, b)
      LEFT JOIN (SELECT w.b, array_agg(w.k ORDER BY w.n) AS paths FROM unnest(wb, wk) WITH ORDINALITY w(b, k, n) GROUP BY w.b) p
        ON p.b = i.b
      WHERE fresh[i.b] IS NOT NULL;
    UPDATE head SET rev = newest;
  END IF;
END $$";

/// Work that is due below `prefix` (which ends in a slash). It looks before it takes the lock: mostly nothing is due.
const CLAIM: &str = "
CREATE FUNCTION due_1(prefix bytea, at bigint, most int) RETURNS TABLE (k bytea, v bytea) LANGUAGE sql STABLE AS $$
  SELECT e.k, e.v FROM kv e
  WHERE e.k > prefix AND e.k < prefix || convert_to(lpad(to_hex(at), 16, '0') || '0', 'UTF8')
    AND (e.hidden IS NULL OR e.hidden <= at)
    AND convert_from(substr(e.k, octet_length(prefix) + 1), 'UTF8') ~ '^[0-9a-f]{16}(/|$)'
  ORDER BY e.k LIMIT most
$$;
CREATE FUNCTION claim_1(prefix bytea, at bigint, most int, hide bigint, OUT base bigint, OUT ks bytea[], OUT vs bytea[])
LANGUAGE plpgsql AS $$
BEGIN
  at := coalesce(at, floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint);
  IF NOT EXISTS (SELECT FROM due_1(prefix, at, 1)) THEN
    RETURN;
  END IF;
  SELECT h.rev INTO STRICT base FROM head h FOR UPDATE;
  SELECT array_agg(d.k ORDER BY d.k), array_agg(d.v ORDER BY d.k) INTO ks, vs FROM due_1(prefix, at, most) d;
  IF ks IS NULL THEN
    RETURN;
  END IF;
  UPDATE kv e SET rev = base + 1, hidden = at + hide FROM unnest(ks) c(k) WHERE e.k = c.k;
  INSERT INTO log (rev, paths) VALUES (base + 1, ks);
  UPDATE head SET rev = base + 1;
END $$";

const TRIM: &str = "
CREATE FUNCTION trim_1(upto bigint, most int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  newest bigint;
BEGIN
  SELECT max(l.rev) INTO newest FROM (SELECT g.rev FROM log g WHERE g.rev <= upto ORDER BY g.rev LIMIT most) l;
  IF newest IS NOT NULL THEN
    DELETE FROM log l WHERE l.rev <= newest;
    UPDATE head SET floor = greatest(floor, newest);
  END IF;
  RETURN coalesce(newest, upto);
END $$";

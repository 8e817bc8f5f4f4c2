-- layout 1: the tables. Run once, in the transaction that made the schema; never changed, only followed by others.
--
-- In place of "rehydra." stands the schema that store.prefix names. Numbers are bigint, moments are ms since 1970 by
-- this server's clock. Turn ids are bytea, compared byte for byte: text can't hold every character of one.

CREATE TABLE rehydra.layout (
  layout integer NOT NULL,          -- which of these files was run last
  schema_version integer NOT NULL   -- the newest under which a program has written records here
);
INSERT INTO rehydra.layout VALUES (0, 0);

-- The lease, and what belongs to a session but isn't a turn. Each call locks this one row of its session.
CREATE TABLE rehydra.sessions (
  tenant text COLLATE "C" NOT NULL,
  session_id text COLLATE "C" NOT NULL,
  schema_version integer NOT NULL,
  life bigint NOT NULL,                     -- names the log of this life of the session
  born bigint NOT NULL,
  epoch bigint NOT NULL,
  token text NOT NULL DEFAULT '',
  incarnation text NOT NULL DEFAULT '',     -- these three: the holder, or who it was when the session was deleted
  slot text NOT NULL DEFAULT '',
  address text NOT NULL DEFAULT '',
  takeovers bigint NOT NULL DEFAULT 0,
  running bytea NOT NULL DEFAULT '',        -- turn id, see check
  suspects bytea[] NOT NULL DEFAULT '{}',   -- turn ids, see claim; they say something while takeovers > 0 only
  turn_seq bigint NOT NULL DEFAULT 0,
  last_turn_id bytea NOT NULL DEFAULT '',
  deleted boolean NOT NULL DEFAULT false,   -- a tombstone
  state bytea NOT NULL DEFAULT '',
  expires_ms bigint,                        -- null: never
  sweep_hour bigint,                        -- of expires_ms, rounded up; see sweep
  PRIMARY KEY (tenant, session_id)
-- Room for the next version of a row on the same page, or every commit would write to both indexes too.
) WITH (fillfactor = 70);
-- On the hour and not on expires_ms, which every commit changes: an index on that would be written by each of them.
CREATE INDEX sessions_to_sweep ON rehydra.sessions (sweep_hour) WHERE sweep_hour IS NOT NULL;

CREATE SEQUENCE rehydra.lives;

-- The log: a row a turn, only ever added, and taken away when nobody can reach its life any more.
CREATE TABLE rehydra.turns (
  life bigint NOT NULL,
  turn_seq bigint NOT NULL,
  turn_id bytea NOT NULL,
  fingerprint text NOT NULL,
  record bytea NOT NULL,
  PRIMARY KEY (life, turn_seq)
);
CREATE UNIQUE INDEX turns_by_id ON rehydra.turns (life, turn_id);

-- Lives that have ended: the session was deleted, or it expired. Nobody finds their turns; sweep takes them away.
CREATE TABLE rehydra.remains (life bigint PRIMARY KEY);

-- The membership table. Each change of it locks the one row of ring.
CREATE TABLE rehydra.ring (ring_version bigint NOT NULL);   -- 0: there never was a member
INSERT INTO rehydra.ring VALUES (0);
CREATE TABLE rehydra.members (
  number integer PRIMARY KEY,
  slot text NOT NULL UNIQUE,
  incarnation text NOT NULL UNIQUE,
  record bytea NOT NULL
);
CREATE TABLE rehydra.spares (
  incarnation text PRIMARY KEY,
  slots_max integer NOT NULL,
  record bytea NOT NULL
);

-- Not logged: no beat waits for the disk. A crash of the server forgets them all, and the next ones count from the
-- clock, which is beyond what they had counted to.
CREATE UNLOGGED TABLE rehydra.beats (
  incarnation text PRIMARY KEY,
  counter bigint NOT NULL,
  seen_ms bigint NOT NULL,
  state text NOT NULL,
  address text NOT NULL
);

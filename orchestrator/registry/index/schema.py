"""The tables of an index, and the version of their form."""

from __future__ import annotations

VERSION = 3
"""Of the tables and of what stands in them: one of another version is made again."""
BLOCK_FIELDS = 500
"""Fields of a table of values: SQLite allows 2,000 columns, and a row is read from its start."""

TABLES = """
CREATE TABLE sweep (
  id INTEGER PRIMARY KEY,
  folder TEXT NOT NULL UNIQUE,      -- its name in the storage folder
  -- how far the journal was read, and what it was then
  inode INTEGER NOT NULL, mtime INTEGER NOT NULL, bytes INTEGER NOT NULL,
  read INTEGER NOT NULL, lines INTEGER NOT NULL,
  first TEXT NOT NULL,              -- a hash of its first line
  last_start INTEGER NOT NULL, last TEXT NOT NULL,   -- where the last line read begins; a hash
  touched INTEGER NOT NULL,         -- the last line of a trial's own: a verdict before it is void
  pruned INTEGER NOT NULL DEFAULT 0,   -- bytes of the notes of what was pruned, as last read
  problem TEXT,                     -- why it cannot be read
  -- what the journal says
  experiment TEXT, kind TEXT, base TEXT, base_sha256 TEXT,
  begun REAL, changed REAL, core_seconds REAL, hypervolume REAL, test_gain REAL,
  document TEXT NOT NULL,
  in_use TEXT NOT NULL DEFAULT 'null'   -- what is in use under its name, by the registry: JSON
);
CREATE TABLE trial (
  id INTEGER PRIMARY KEY,
  sweep INTEGER NOT NULL, name TEXT NOT NULL,
  number INTEGER NOT NULL,          -- the line that names it first: the order of proposal
  state TEXT NOT NULL, of TEXT, by TEXT,
  on_front INTEGER NOT NULL DEFAULT 0, champion INTEGER NOT NULL DEFAULT 0,
  in_use INTEGER NOT NULL DEFAULT 0,
  examples INTEGER, tasks TEXT, task TEXT, learnt INTEGER,
  proposed REAL, begun REAL, ended REAL, seconds REAL, tokens INTEGER,
  core_seconds REAL, test_gain REAL, test_gain_low REAL, test_gain_high REAL,
  stopped TEXT, reason TEXT, log TEXT, adapter INTEGER NOT NULL, pruned REAL,
  screened INTEGER NOT NULL, overrides BLOB,
  searched INTEGER NOT NULL, over INTEGER NOT NULL, joint INTEGER NOT NULL,
  searched_gain REAL, gain REAL,
  UNIQUE (sweep, name)
);
CREATE TABLE trial_document (       -- apart, as lists seldom read it
  trial INTEGER PRIMARY KEY, place TEXT, document BLOB NOT NULL
);
CREATE TABLE registry (             -- of champions, as it was when it was read
  stamp TEXT NOT NULL
);
CREATE INDEX trial_order ON trial (sweep, number);
CREATE TABLE line (                 -- where each line of a journal is, a trial's side by side
  sweep INTEGER NOT NULL, trial TEXT NOT NULL, n INTEGER NOT NULL,
  start INTEGER NOT NULL, length INTEGER NOT NULL, event TEXT NOT NULL,
  PRIMARY KEY (sweep, trial, n)
) WITHOUT ROWID;
CREATE TABLE field (
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, block INTEGER NOT NULL
);
CREATE TABLE sweep_field (          -- which fields a sweep's trials have; first by trial and place
  sweep INTEGER NOT NULL, field INTEGER NOT NULL, number INTEGER NOT NULL, place INTEGER NOT NULL,
  PRIMARY KEY (sweep, field)
) WITHOUT ROWID;
"""

-- Scanning again: what a new database of advisories says of images that had passed, without reading any of them.

alter table scans
    -- The image's layers, the base first: its packages are in their indexes. Empty: the engine keeps no indexes.
    add column layers text[] not null default '{}',
    -- Since when a database has something against the image that rejects. Null: the verdict stands.
    add column revoked_at timestamptz,
    -- By policy: revoked, and run no more.
    add column refused boolean not null default false,
    -- The database that counts and findings are of, where it is a later one than that of the scan.
    add column rematched_with text;

-- One row for each database and policy that live images were matched with.
create table rematches (
    -- Of the database's version, the policy in force, and the day.
    key text primary key,
    database_version text not null,
    -- The newest advisory in that database: an older one never undoes what a newer one found.
    newest timestamptz not null,
    images integer not null,
    -- Of these: images whose layers are not known.
    unindexed integer not null,
    revoked integer not null,
    restored integer not null,
    duration_ms bigint not null,
    ended_at timestamptz not null default now()
);

create index rematches_newest on rematches (newest desc);

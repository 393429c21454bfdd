-- The console: who is logged in, and who did what.

create table sessions (
    -- SHA-256 of what the browser's cookie holds.
    id_hash bytea primary key,
    -- SHA-256 of the API token that opened it: a session is worth what its token is worth now.
    token_hash bytea not null,
    owner text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null
);

create index sessions_expires on sessions (expires_at);

-- What people asked for that changes something, through whichever door.
create table audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    owner text not null,
    role text not null,
    -- log-in, log-out, cancel-build, cancel-task, delete-function, replay, drop, plan-cleanup, ...
    action text not null,
    -- What it is about: an id, a name.
    target text not null,
    detail jsonb not null default '{}',
    -- done; begun: it is not in this database, and is under way, or its process died meanwhile; else why it failed.
    outcome text not null default 'done'
);

-- Recoveries that somebody tried out.
create table mirror_drills (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    fallback text not null,
    recovered boolean not null,
    duration_ms bigint not null,
    -- As `mecapy mirror drill --json` has them.
    images jsonb not null
);

-- Functions and their versions, builds and scans, tasks, and the two tables that make an event's effect
-- happen once: inbox and outbox.
--
-- States are text with a check, so that psql shows what is going on; the code moves them forward only.

create table functions (
    id bigint generated always as identity primary key,
    owner text not null,
    name text not null,
    -- What the newest ready build left, for whoever reads this table alone.
    current_build uuid,
    docker_image text,
    image_size bigint,
    build_duration_ms bigint,
    build_status text not null default 'queued',
    build_logs_s3_key text,
    created_at timestamptz not null default now(),
    deleted_at timestamptz
);

create unique index functions_owner_name on functions (owner, name) where deleted_at is null;
create index functions_live on functions (id) where deleted_at is null;

create table versions (
    function_id bigint not null references functions,
    version integer not null check (version > 0),
    python_version text not null,
    base_variant text not null,
    requirements text not null,
    -- Of everything that the image depends on: two versions with one hash are the same function.
    inputs_sha256 text not null,
    created_at timestamptz not null default now(),
    primary key (function_id, version)
);

create table builds (
    id uuid primary key,
    function_id bigint not null,
    version integer not null,
    state text not null default 'queued' check (state in
        ('queued', 'building', 'scanning', 'publishing', 'ready', 'failed', 'rejected')),
    cancel_requested boolean not null default false,
    -- What the builder left.
    staging_image text,
    digest text,
    tag text,
    size_bytes bigint,
    dependency_image text,
    lock_key text,
    log_key text,
    build_duration_ms bigint,
    -- What the publisher left.
    docker_image text,
    -- Why it ended otherwise.
    error_code text,
    error_message text,
    error_log text[],
    requested_at timestamptz not null default now(),
    started_at timestamptz,
    built_at timestamptz,
    scanned_at timestamptz,
    ended_at timestamptz,
    updated_at timestamptz not null default now(),
    foreign key (function_id, version) references versions
);

create index builds_function on builds (function_id, version desc, requested_at desc);
create index builds_open on builds (updated_at) where state in ('queued', 'building', 'scanning', 'publishing');
create index builds_digest on builds (digest);

create table scans (
    build_id uuid primary key references builds,
    digest text not null,
    engine text not null,
    engine_version text not null,
    database_version text not null,
    database_partial boolean not null,
    verdict text not null check (verdict in ('PASSED', 'REJECTED')),
    critical integer not null,
    high integer not null,
    medium integer not null,
    low integer not null,
    unknown integer not null,
    findings jsonb not null,
    report_key text not null,
    sbom_key text not null,
    duration_ms bigint not null,
    scanned_at timestamptz not null default now()
);

create index scans_digest on scans (digest);

-- What a layer holds, read once for every image that has it.
create table layer_indexes (
    layer_digest text not null,
    analyser_version text not null,
    contents jsonb not null,
    indexed_at timestamptz not null default now(),
    primary key (layer_digest, analyser_version)
);

create table tasks (
    id uuid primary key,
    function_id bigint not null references functions,
    -- As asked for; empty: the function's current version.
    image text not null default '',
    state text not null default 'queued' check (state in
        ('queued', 'running', 'succeeded', 'failed', 'timed_out', 'oom', 'cancelled', 'lost')),
    -- The fence: a result is recorded only for the attempt that is the newest.
    attempt integer not null default 0,
    cancel_requested boolean not null default false,
    inputs_s3_key text,
    timeout_ms bigint not null default 0,
    deadline timestamptz,
    worker text,
    digest text,
    cache text,
    timings jsonb,
    result_key text,
    exit_code integer,
    error_code text,
    error_message text,
    error_log text[],
    created_at timestamptz not null default now(),
    started_at timestamptz,
    ended_at timestamptz
);

create index tasks_function on tasks (function_id, created_at desc);
create index tasks_open on tasks (created_at) where state in ('queued', 'running');

-- How often each image ran, a row a day: what mirror and janitor go by, instead of a scan of all tasks.
create table image_usage (
    day date not null,
    digest text not null,
    function_id bigint not null references functions,
    tasks bigint not null,
    primary key (day, digest, function_id)
);

-- Messages whose effect is in this database.
create table inbox (
    consumer text not null,
    message_id text not null,
    handled_at timestamptz not null default now(),
    primary key (consumer, message_id)
);

create index inbox_handled on inbox (handled_at);

-- Messages that this database says must go out. A row is deleted when the stream has it.
create table outbox (
    id bigint generated always as identity primary key,
    service text not null,
    subject text not null,
    message_id text not null,
    payload bytea not null,
    traceparent text,
    created_at timestamptz not null default now()
);

create index outbox_service on outbox (service, id);

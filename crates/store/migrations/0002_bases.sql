-- Base images: a run is a matrix of them, and each of its cells is a build like any other.

create table base_runs (
    id text primary key,
    -- schedule, push, manual
    reason text not null,
    requested_at timestamptz not null default now(),
    -- When the last cell ended, with what became of each, as base.done tells it.
    ended_at timestamptz,
    outcomes jsonb
);

create index base_runs_requested on base_runs (requested_at desc);

alter table builds
    alter column function_id drop not null,
    alter column version drop not null,
    -- "3.11-slim"
    add column base text,
    add column base_run text references base_runs,
    -- Of a function: the base image that its image stands on. Null: it was built before this was kept.
    add column base_digest text,
    add constraint builds_of_one_kind check (
        (function_id is not null and version is not null and base is null and base_run is null)
        or (function_id is null and version is null and base is not null and base_run is not null));

create unique index builds_base_run on builds (base_run, base) where base_run is not null;
create index builds_base_ready on builds (base, requested_at desc) where base is not null and state = 'ready';

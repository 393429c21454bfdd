-- What the replicas of the builder share.

-- Who works alone on something. The holder renews its row while it lives; when it dies, another takes it over.
create table leases (
    name text primary key,
    holder uuid not null,
    until timestamptz not null
);

-- What requirements were resolved to a short while ago.
create table resolutions (
    key text primary key,
    lock text not null,
    resolved_at timestamptz not null default now()
);

create index resolutions_resolved on resolutions (resolved_at);

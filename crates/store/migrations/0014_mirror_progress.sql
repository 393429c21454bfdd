-- How far an image of a run is on its way, as whoever copies it told last.
alter table mirror_images
    add column bytes_moved bigint not null default 0,
    -- Of all its blobs; 0: nothing moves, or it is not known yet.
    add column bytes_to_move bigint not null default 0;

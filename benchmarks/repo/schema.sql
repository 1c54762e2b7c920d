CREATE TABLE payments (
    id         bigint PRIMARY KEY,
    account    bigint NOT NULL,
    amount     double precision NOT NULL,
    fee        numeric(10, 2) NOT NULL,
    items      integer NOT NULL,
    score      real NOT NULL,
    status     text NOT NULL,
    country    varchar(2) NOT NULL,
    device     text,
    confirmed  boolean NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);
CREATE TABLE notes (
    id   bigint PRIMARY KEY,
    text text NOT NULL
);
CREATE TABLE visits (
    id       bigint PRIMARY KEY,
    customer bigint NOT NULL,
    at       timestamptz NOT NULL
);

CREATE TABLE airlines (
    carrier char(2) PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE airports (
    faa varchar(4) PRIMARY KEY,
    name text NOT NULL,
    lat double precision NOT NULL,
    lon double precision NOT NULL,
    alt integer NOT NULL,
    tz smallint NOT NULL,
    dst char(1) NOT NULL,
    tzone text
);
CREATE TABLE planes (
    tailnum varchar(8) PRIMARY KEY,
    year smallint,
    type text NOT NULL,
    manufacturer text NOT NULL,
    model text NOT NULL,
    engines smallint NOT NULL,
    seats smallint NOT NULL,
    speed smallint,
    engine text NOT NULL
);
CREATE TABLE weather (
    origin varchar(4) NOT NULL REFERENCES airports,
    time_hour timestamptz NOT NULL,
    temp double precision,
    dewp double precision,
    humid double precision,
    wind_dir smallint,
    wind_speed double precision,
    wind_gust double precision,
    precip double precision NOT NULL,
    pressure double precision,
    visib double precision NOT NULL,
    PRIMARY KEY (origin, time_hour)
);
-- Destinations and tail numbers are no foreign keys: the real data names some that its other tables lack.
CREATE TABLE flights (
    flight_date date NOT NULL,
    carrier char(2) NOT NULL REFERENCES airlines,
    flight integer NOT NULL,
    origin varchar(4) NOT NULL REFERENCES airports,
    dest varchar(4) NOT NULL,
    tailnum varchar(8),
    status text NOT NULL,
    sched_dep timestamptz NOT NULL,
    departed_at timestamptz,
    arrived_at timestamptz,
    dep_delay real,
    arr_delay real,
    air_time smallint,
    distance smallint NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (flight_date, carrier, flight, origin)
);

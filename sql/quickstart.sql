-- How late did flights leave New York, hour by hour? A week of real departures, read as a stream.
--
--   cargo run -- run sql/quickstart.sql
--
-- Run it again: it goes on from its checkpoint, finds nothing new, and adds nothing. For a fresh start, remove out/.

-- The input. Each file holds the departures of six hours, in the order in which the planes really left. Four files a
-- micro-batch make one day. Files are read in the order of their paths; without orderBy it is modification time.
--
-- The event time is the scheduled departure. A plane that leaves three hours late is a row that comes three hours late,
-- so a window is held open until the newest event time is three hours past its end. That is the watermark.
CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, tailnum STRING,
  origin STRING, dest STRING, distance INT, air_time INT, arr_delay INT,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
) STORED AS JSON LOCATION 'sql/data/flights/'
OPTIONS ('maxFilesPerTrigger' '4', 'orderBy' 'path');

-- A bounded table beside the stream: the airlines' names.
CREATE EXTERNAL TABLE airlines STORED AS CSV LOCATION 'sql/data/airlines.csv' OPTIONS ('format.has_header' 'true');

-- The output: Parquet files, one directory per airport. The columns are those of the query that writes here.
CREATE EXTERNAL TABLE delays STORED AS PARQUET LOCATION 'out/delays/' PARTITIONED BY (origin);

-- The flow from one to the other. In append mode a row leaves once, when the watermark has passed the end of its hour
-- and nothing can change it any more. The checkpoint remembers what was read, what is still open and what was written:
-- killed at any moment and started again, the flow leaves every row in out/delays/ exactly once.
--
-- The watermark stops three hours before the last departure of the week, so the windows of the last hours stay open.
-- They are kept in the checkpoint, and would leave if another day of flights arrived.
CREATE FLOW hourly_delays
  OUTPUT MODE append
  TRIGGER AVAILABLE NOW                          -- read what is there, then end
  CHECKPOINT 'out/_checkpoints/hourly_delays'
AS INSERT INTO delays
SELECT window.start AS hour, f.origin, a.name AS airline, count(*) AS flights, avg(f.dep_delay) AS delay
FROM STREAM flights AS f
JOIN airlines AS a ON f.carrier = a.carrier
GROUP BY window(f.sched_dep, '1 hour'), f.origin, a.name;

-- A second flow over the same input, on its own. Complete mode gives the whole result after every batch, so it can be
-- sorted; no window has to close first. A MEMORY table keeps it for the rest of this script.
CREATE EXTERNAL TABLE busiest STORED AS MEMORY;

CREATE FLOW busiest_airlines
  OUTPUT MODE complete
  TRIGGER AVAILABLE NOW
AS INSERT INTO busiest
SELECT a.name AS airline, count(*) AS flights, max(f.dep_delay) AS longest_delay
FROM STREAM flights AS f
JOIN airlines AS a ON f.carrier = a.carrier
GROUP BY a.name;

-- What came of it. Both tables can be read as soon as their flows have ended.
SELECT airline, flights, longest_delay FROM busiest ORDER BY flights DESC, airline LIMIT 5;

SELECT origin, hour, airline, flights, round(delay, 1) AS delay
FROM delays
WHERE flights >= 5
ORDER BY delay DESC, origin, hour, airline
LIMIT 5;

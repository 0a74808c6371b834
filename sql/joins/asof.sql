-- ASOF join of two streams: flights that left hours late, each with the latest weather reading of its airport when it
-- was to leave. A reading of the same hour may be missing; then the one before it counts.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE UNBOUNDED EXTERNAL TABLE weather (
  time TIMESTAMP, origin STRING, temp DOUBLE, wind_speed DOUBLE,
  WATERMARK FOR time AS time - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/weather.ndjson';

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW asof_join OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT f.sched_dep, f.carrier, f.flight, f.dep_delay, w.time AS measured, w.temp, w.wind_speed
FROM STREAM flights AS f
ASOF LEFT JOIN STREAM weather AS w ON f.origin = w.origin AND f.sched_dep >= w.time
WHERE f.dep_delay >= 180;

-- Windows of two streams, joined: what left an airport in half a day beside the weather of that half day. A window
-- leaves its stream when it closes, and meets its like in the same batch; nothing has to be said about times.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE UNBOUNDED EXTERNAL TABLE weather (time TIMESTAMP, origin STRING, wind_speed DOUBLE)
STORED AS JSON LOCATION 'sql/data/weather.ndjson';

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW half_days OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT f.from_time, f.origin, f.flights, f.delay, w.readings, w.strongest_wind
FROM (
  SELECT window AS half_day, window.start AS from_time, origin, count(*) AS flights, avg(dep_delay) AS delay
  FROM STREAM flights GROUP BY window(sched_dep, '12 hours'), origin
) AS f
JOIN (
  SELECT window AS half_day, origin, count(*) AS readings, max(wind_speed) AS strongest_wind
  FROM STREAM weather WATERMARK time DELAY OF INTERVAL 1 HOUR GROUP BY window(time, '12 hours'), origin
) AS w ON f.half_day = w.half_day AND f.origin = w.origin;

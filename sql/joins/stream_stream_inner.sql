-- Inner join of two streams: the flights that left three hours late, with the weather of the hour before. Rows of both
-- sides wait for partners; the bounds on the two times say how long, so that what is remembered does not grow for ever.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE UNBOUNDED EXTERNAL TABLE weather (time TIMESTAMP, origin STRING, temp DOUBLE, wind_speed DOUBLE)
STORED AS JSON LOCATION 'sql/data/weather.ndjson';

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW late_in_the_wind OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT f.sched_dep, f.carrier, f.flight, f.dep_delay, w.time AS read_at, w.temp, w.wind_speed
FROM STREAM flights AS f
JOIN STREAM weather WATERMARK time DELAY OF INTERVAL 1 HOUR AS w
  ON f.origin = w.origin AND w.time > f.sched_dep - INTERVAL '1' HOUR AND w.time <= f.sched_dep
WHERE f.dep_delay > 180;

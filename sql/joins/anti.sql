-- Anti join: the flights for which the table has no row. Counted by hour: where the weather was not recorded.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE weather (time TIMESTAMP, origin STRING, temp DOUBLE, wind_speed DOUBLE, visib DOUBLE)
STORED AS JSON LOCATION 'sql/data/weather.ndjson';

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW anti_join OUTPUT MODE update TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT date_trunc('hour', sched_dep) AS hour, origin, count(*) AS flights
FROM (
  SELECT f.sched_dep, f.origin
  FROM STREAM flights AS f
  LEFT ANTI JOIN weather AS w ON f.origin = w.origin AND date_trunc('hour', f.sched_dep) = w.time
) AS unrecorded
GROUP BY date_trunc('hour', sched_dep), origin;

-- A join of two streams, then a window over what it gives: did planes leave later when the wind was strong? The join
-- hands on a watermark that lies an hour behind, since so much older may be what it still gives: windows close later.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, origin STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE UNBOUNDED EXTERNAL TABLE weather (time TIMESTAMP, origin STRING, wind_speed DOUBLE)
STORED AS JSON LOCATION 'sql/data/weather.ndjson';

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW wind_and_delay OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT window.start AS half_day, windy, count(*) AS flights, avg(dep_delay) AS delay
FROM (
  SELECT f.sched_dep AS sched_dep, f.dep_delay AS dep_delay, w.wind_speed >= 15 AS windy
  FROM STREAM flights AS f
  JOIN STREAM weather WATERMARK time DELAY OF INTERVAL 1 HOUR AS w
    ON f.origin = w.origin AND w.time > f.sched_dep - INTERVAL '1' HOUR AND w.time <= f.sched_dep
) AS with_wind
GROUP BY window(sched_dep, '12 hours'), windy;

-- Left join, the stream on the left: every flight leaves, with the weather of its hour where there is a reading.
-- For LGA the reading of 6 January, 06:00, is missing.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, carrier STRING, flight INT, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE weather (time TIMESTAMP, origin STRING, temp DOUBLE, wind_speed DOUBLE, visib DOUBLE)
STORED AS JSON LOCATION 'sql/data/weather.ndjson';

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW left_join OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT f.sched_dep, f.carrier, f.flight, w.temp, w.wind_speed
FROM STREAM flights AS f
LEFT JOIN weather AS w ON f.origin = w.origin AND date_trunc('hour', f.sched_dep) = w.time
WHERE f.origin = 'LGA' AND f.sched_dep >= TIMESTAMP '2013-01-06 06:00:00'
  AND f.sched_dep < TIMESTAMP '2013-01-06 07:30:00';

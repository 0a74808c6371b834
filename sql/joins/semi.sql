-- Semi join: the flights for which the table has a row, each once. Departures in a strong wind.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, origin STRING)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE weather (time TIMESTAMP, origin STRING, temp DOUBLE, wind_speed DOUBLE, visib DOUBLE)
STORED AS JSON LOCATION 'sql/data/weather.ndjson';

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW semi_join OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT f.sched_dep, f.origin, f.carrier, f.flight, f.dep_delay
FROM STREAM flights AS f
LEFT SEMI JOIN weather AS w
  ON f.origin = w.origin AND date_trunc('hour', f.sched_dep) = w.time AND w.wind_speed >= 23;

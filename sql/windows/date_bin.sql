-- date_bin is a plain key: no watermark, no closing, so the mode is complete (or update).

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW by_half_day OUTPUT MODE complete TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT date_bin(INTERVAL '12 hours', sched_dep) AS half_day, count(*) AS flights, max(dep_delay) AS longest_delay
FROM STREAM flights
GROUP BY date_bin(INTERVAL '12 hours', sched_dep)
ORDER BY half_day;

-- DROP_DUPLICATES_WITHIN_WATERMARK forgets: a key holds rows back until the watermark has passed the time of its first
-- row and the delay. Of the 137 flights to San Juan one is let through from either airport, then none for some hours.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, carrier STRING, flight INT, origin STRING, dest STRING,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW to_san_juan OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT sched_dep, origin, carrier, flight
FROM DROP_DUPLICATES_WITHIN_WATERMARK(STREAM flights, origin, dest)
WHERE dest = 'SJU';

-- A row that comes after its window has closed is late: it is dropped and counted, and LATE ROWS INTO keeps it.
-- The delay is one hour here, said on the relation. MQ 3944 was to leave on 1 January at 18:35 and left the next
-- morning at 08:48: by then its window (18:00 to 21:00) had left with the 145 other flights. It is the week's only one.

CREATE UNBOUNDED EXTERNAL TABLE flights (sched_dep TIMESTAMP, dep_delay INT)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');
CREATE EXTERNAL TABLE late_flights STORED AS PARQUET LOCATION 'out/late_rows/late_flights/';

CREATE FLOW late_rows OUTPUT MODE append TRIGGER AVAILABLE NOW LATE ROWS INTO late_flights
AS INSERT INTO answer
SELECT window.start AS from_time, count(*) AS flights, max(dep_delay) AS longest_delay
FROM STREAM flights WATERMARK sched_dep DELAY OF INTERVAL 1 HOUR
GROUP BY window(sched_dep, '3 hours');

-- Who dropped which row, by which watermark, and in which batch.
SELECT flow, operator, watermark, batch_id, row FROM late_flights;

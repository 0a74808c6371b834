-- Spark's functions under Spark's names: strings, patterns and dates.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, dep_delay INT, carrier STRING, flight INT, tailnum STRING, origin STRING, dest STRING
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW functions OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT concat(carrier, ' ', CAST(flight AS STRING)) AS name,
       split(concat(origin, '-', dest), '-') AS route,
       regexp_extract(tailnum, 'N([0-9]+)', 1) AS tail,
       date_format(sched_dep, 'yyyy-MM-dd HH:mm') AS scheduled,
       unix_timestamp(sched_dep) AS seconds,
       hour(sched_dep) AS hour_of_day
FROM STREAM flights
WHERE dep_delay >= 300;

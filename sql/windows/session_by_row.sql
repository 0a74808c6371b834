-- The gap of a session may differ from row to row: after a long flight a plane cannot be back for eight hours, after
-- a short one it can in five. A session ends when the last of its rows' gaps does. The planes that kept coming back.

CREATE UNBOUNDED EXTERNAL TABLE flights (
  sched_dep TIMESTAMP, tailnum STRING, distance INT,
  WATERMARK FOR sched_dep AS sched_dep - INTERVAL '3' HOUR
)
STORED AS JSON LOCATION 'sql/data/flights/' OPTIONS ('orderBy' 'path', 'maxFilesPerTrigger' '4');

CREATE EXTERNAL TABLE answer STORED AS CONSOLE OPTIONS ('format' 'json');

CREATE FLOW busy_planes OUTPUT MODE append TRIGGER AVAILABLE NOW
AS INSERT INTO answer
SELECT session_window.start AS from_time, session_window.end AS to_time, tailnum,
       count(*) AS departures, sum(distance) AS miles
FROM STREAM flights
GROUP BY session_window(sched_dep, CASE WHEN distance > 1000 THEN '8 hours' ELSE '5 hours' END), tailnum
HAVING count(*) >= 4;

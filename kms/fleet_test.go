package kms

import (
	"testing"
	"time"
)

func TestForecast(t *testing.T) {
	now := time.Date(2026, 11, 25, 10, 15, 0, 0, time.UTC)
	hour := now.Unix() / 3600
	for _, tt := range []struct {
		name      string
		remaining int64
		moved     map[int64]int64
		hour, day int64
		want      time.Time
	}{
		{"a day", 10, map[int64]int64{hour - 1: 10}, 0, 10, now.AddDate(0, 0, 1)},
		{"this hour and others", 30, map[int64]int64{hour: 3, hour - 1: 5, hour - 23: 7, hour - 24: 9}, 3, 15, now.AddDate(0, 0, 2)},
		{"nothing moved", 10, nil, 0, 0, time.Time{}},
		{"nothing remains", 0, map[int64]int64{hour: 1}, 1, 1, time.Time{}},
		{"a century", 36500, map[int64]int64{hour: 1}, 1, 1, now.AddDate(0, 0, 36500)},
		{"more than a century", 36501, map[int64]int64{hour: 1}, 1, 1, time.Time{}},
		{"more than a time.Duration holds", 2_000_000, map[int64]int64{hour: 10}, 10, 10, time.Time{}},
	} {
		r := Rotation{Remaining: tt.remaining}
		r.forecast(fleet{Moved: tt.moved}, now)
		if r.MovedLastHour != tt.hour || r.MovedLastDay != tt.day || !r.Forecast.Equal(tt.want) {
			t.Errorf("%s: %+v, want %d, %d, %v", tt.name, r, tt.hour, tt.day, tt.want)
		}
	}
}

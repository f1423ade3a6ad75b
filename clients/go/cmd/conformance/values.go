package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecar"
)

// variables are the names that a case can use in its arguments.
type variables map[string]any

var name = regexp.MustCompile(`\{([^{}]+)\}`)

// fill returns arguments with the names in their strings replaced.
func (v variables) fill(value any) (any, error) {
	switch value := value.(type) {
	case string:
		if found := name.FindString(value); found == value && found != "" {
			return v.lookup(found[1 : len(found)-1]) // keeps its type
		}
		var failed error
		filled := name.ReplaceAllStringFunc(value, func(found string) string {
			replaced, err := v.lookup(found[1 : len(found)-1])
			failed = errors.Join(failed, err)
			return fmt.Sprint(replaced)
		})
		return filled, failed
	case []any:
		filled := make([]any, len(value))
		for i, one := range value {
			var err error
			if filled[i], err = v.fill(one); err != nil {
				return nil, err
			}
		}
		return filled, nil
	case map[string]any:
		filled := make(map[string]any, len(value))
		for key, one := range value {
			newKey, err := v.fill(key)
			if err != nil {
				return nil, err
			}
			if filled[fmt.Sprint(newKey)], err = v.fill(one); err != nil {
				return nil, err
			}
		}
		return filled, nil
	}
	return value, nil
}

func (v variables) lookup(key string) (any, error) {
	if value, isThere := v[key]; isThere {
		return value, nil
	}
	kind, _, _ := strings.Cut(key, ":")
	switch {
	case kind == "uuid":
		v[key] = uuid.NewString()
	case kind == "uuid7":
		v[key] = uuid.Must(uuid.NewV7()).String()
	case key == "now" || strings.HasPrefix(key, "now-") || strings.HasPrefix(key, "now+"):
		seconds, _ := strconv.ParseFloat(strings.TrimPrefix(key, "now"), 64)
		return time.Now().Add(time.Duration(seconds * float64(time.Second))).UTC().Format(time.RFC3339Nano), nil
	default:
		return nil, fmt.Errorf("nothing was saved as %q", key)
	}
	return v[key], nil
}

// at returns the value at a path, such as cart.items.0.etag.
func at(value any, path string) (any, error) {
	for _, key := range strings.Split(path, ".") {
		switch inner := value.(type) {
		case map[string]any:
			value = inner[key]
		case []any:
			index, err := strconv.Atoi(key)
			if err != nil || index >= len(inner) {
				return nil, fmt.Errorf("there is no %q in the result", path)
			}
			value = inner[index]
		default:
			return nil, fmt.Errorf("there is no %q in the result", path)
		}
	}
	if value == nil {
		return nil, fmt.Errorf("there is no %q in the result", path)
	}
	return value, nil
}

// jsonName returns the name that a field of this library has in the protos: ImageURIs is image_uris.
func jsonName(field string) string {
	field = strings.NewReplacer("URIs", "Uris", "IDs", "Ids", "ID", "Id", "IP", "Ip").Replace(field)
	var b strings.Builder
	for i, r := range field {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// enumPrefix returns what an enum's values begin with, such as RESERVATION_STATE_.
func enumPrefix(enum protoreflect.Enum) string {
	return strings.ToUpper(jsonName(string(enum.Descriptor().Name()))) + "_"
}

// toJSON returns a value of this library as the cases describe it.
func toJSON(value any) any {
	switch value := value.(type) {
	case cachesidecar.Money:
		return moneyText(value)
	case time.Time:
		if value.IsZero() {
			return nil
		}
		return value.UTC().Format(time.RFC3339Nano)
	case time.Duration:
		return value.Seconds()
	case proto.Message:
		return messageJSON(value)
	case protoreflect.Enum:
		descriptor := value.Descriptor().Values().ByNumber(value.Number())
		if value.Number() == 0 || descriptor == nil {
			return nil
		}
		return strings.TrimPrefix(string(descriptor.Name()), enumPrefix(value))
	}
	v := reflect.ValueOf(value)
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return toJSON(v.Elem().Interface())
	case reflect.Struct:
		fields := map[string]any{}
		for i := range v.NumField() {
			field := v.Type().Field(i)
			if converted := toJSON(v.Field(i).Interface()); field.Anonymous {
				for key, one := range converted.(map[string]any) {
					fields[key] = one
				}
			} else if converted != nil {
				fields[jsonName(field.Name)] = converted
			}
		}
		return fields
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = toJSON(v.Index(i).Interface())
		}
		return list
	case reflect.Map:
		fields := map[string]any{}
		for _, key := range v.MapKeys() {
			fields[key.String()] = toJSON(v.MapIndex(key).Interface())
		}
		return fields
	case reflect.Int32, reflect.Int64, reflect.Int:
		return v.Int()
	}
	return value
}

// moneyText returns an amount without trailing zeros.
func moneyText(m cachesidecar.Money) any {
	if m == (cachesidecar.Money{}) {
		return nil
	}
	return strings.TrimRight(strings.TrimRight(m.Amount(), "0"), ".") + " " + m.Currency()
}

// fromJSON writes arguments of a case into a value of this library, given as a pointer. Fields that it does not have fail.
func fromJSON(argument any, into any) error {
	target := reflect.ValueOf(into).Elem()
	switch pointer := into.(type) {
	case *cachesidecar.Money:
		return pointer.UnmarshalText([]byte(argument.(string)))
	case *time.Time:
		return pointer.UnmarshalText([]byte(argument.(string)))
	case *time.Duration:
		*pointer = time.Duration(argument.(float64) * float64(time.Second))
		return nil
	}
	if enum, isEnum := target.Interface().(protoreflect.Enum); isEnum {
		return setEnum(target, enum, argument)
	}
	switch target.Kind() {
	case reflect.Pointer:
		target.Set(reflect.New(target.Type().Elem()))
		return fromJSON(argument, target.Interface())
	case reflect.Struct:
		given, isMap := argument.(map[string]any)
		if !isMap {
			return fmt.Errorf("%v is no %s", argument, target.Type())
		}
		for key, value := range given {
			field := target.FieldByNameFunc(func(field string) bool { return jsonName(field) == key })
			if !field.IsValid() {
				return fmt.Errorf("a %s has no %q", target.Type(), key)
			}
			if err := fromJSON(value, field.Addr().Interface()); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
		return nil
	case reflect.Slice:
		for _, one := range argument.([]any) {
			element := reflect.New(target.Type().Elem())
			if err := fromJSON(one, element.Interface()); err != nil {
				return err
			}
			target.Set(reflect.Append(target, element.Elem()))
		}
		return nil
	}
	text, err := json.Marshal(argument)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func setEnum(target reflect.Value, enum protoreflect.Enum, argument any) error {
	if number, isNumber := argument.(float64); isNumber {
		target.SetInt(int64(number))
		return nil
	}
	value := enum.Descriptor().Values().ByName(protoreflect.Name(enumPrefix(enum) + argument.(string)))
	if value == nil {
		return fmt.Errorf("%v is none of the %s", argument, enum.Descriptor().FullName())
	}
	target.SetInt(int64(value.Number()))
	return nil
}

// messageJSON returns a message of AdminService as the cases describe it: protojson writes int64 and durations as strings.
func messageJSON(message proto.Message) any {
	fields := map[string]any{}
	message.ProtoReflect().Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		fields[string(field.Name())] = fieldJSON(field, value)
		return true
	})
	return fields
}

func fieldJSON(field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	switch {
	case field.IsList():
		list := make([]any, value.List().Len())
		for i := range list {
			list[i] = singleJSON(field, value.List().Get(i))
		}
		return list
	case field.IsMap():
		fields := map[string]any{}
		value.Map().Range(func(key protoreflect.MapKey, one protoreflect.Value) bool {
			fields[key.String()] = singleJSON(field.MapValue(), one)
			return true
		})
		return fields
	}
	return singleJSON(field, value)
}

func singleJSON(field protoreflect.FieldDescriptor, value protoreflect.Value) any {
	switch field.Kind() {
	case protoreflect.EnumKind:
		descriptor := field.Enum().Values().ByNumber(value.Enum())
		if descriptor == nil {
			return nil
		}
		return strings.TrimPrefix(string(descriptor.Name()), strings.ToUpper(jsonName(string(field.Enum().Name())))+"_")
	case protoreflect.MessageKind:
		switch inner := value.Message().Interface().(type) {
		case interface{ AsDuration() time.Duration }:
			return inner.AsDuration().Seconds()
		case interface{ AsTime() time.Time }:
			return inner.AsTime().Format(time.RFC3339Nano)
		default:
			return messageJSON(inner)
		}
	}
	return value.Interface()
}

// message reads arguments into a message of AdminService.
func message(args map[string]any, into proto.Message) error {
	text, err := json.Marshal(forProto(args, into.ProtoReflect().Descriptor()))
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, into)
}

// forProto turns values of the cases into those of protojson.
func forProto(args map[string]any, descriptor protoreflect.MessageDescriptor) map[string]any {
	converted := map[string]any{}
	for key, value := range args {
		field := descriptor.Fields().ByName(protoreflect.Name(key))
		if field != nil && field.Kind() == protoreflect.MessageKind && !field.IsMap() {
			switch inner := value.(type) {
			case float64:
				value = strconv.FormatFloat(inner, 'f', -1, 64) + "s" // a Duration
			case []any:
				value = fieldMaskText(inner)
			case map[string]any:
				value = forProto(inner, field.Message())
			}
		}
		converted[key] = value
	}
	return converted
}

// fieldMaskText returns paths as protojson has them: with commas, in camel case.
func fieldMaskText(paths []any) string {
	words := make([]string, len(paths))
	for i, path := range paths {
		first, others, _ := strings.Cut(fmt.Sprint(path), "_")
		words[i] = first
		for _, word := range strings.Split(others, "_") {
			if word != "" {
				words[i] += strings.ToUpper(word[:1]) + word[1:]
			}
		}
	}
	return strings.Join(words, ",")
}
